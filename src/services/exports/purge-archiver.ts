import type { ExportPart, ExportScope, ExportSource } from '../../domain/exports.ts';
import type { PurgeArchive } from '../../domain/purge.ts';
import type { Retention } from '../../domain/retention.ts';
import type { Clock } from '../../domain/runtime.ts';
import { ndjsonEncoder } from './encoders.ts';
import { exportText } from './text.ts';

const WHOLE: Omit<ExportScope, 'conversationId'> = {
  filter: { owner: null, from: null, to: null, role: null, status: null },
  activeSince: Number.NEGATIVE_INFINITY,
  lastSeq: Number.MAX_SAFE_INTEGER,
  lastCreated: Number.POSITIVE_INFINITY,
  since: null,
};

/** Writes conversations to the archive, as an export to NDJSON has them. */
export class PurgeArchiver {
  readonly #source: Pick<ExportSource, 'read'>;
  readonly #archive: PurgeArchive;
  readonly #clock: Clock;
  readonly #retention: Retention;

  constructor(source: Pick<ExportSource, 'read'>, archive: PurgeArchive, clock: Clock, retention: Retention) {
    this.#source = source;
    this.#archive = archive;
    this.#clock = clock;
    this.#retention = retention;
  }

  /** Resolves when they are on the disk. Rejects with the error of the file system or `database_unavailable`. */
  async keep(ids: readonly string[]): Promise<void> {
    const counts = { conversations: 0, messages: 0 };
    const ends: IdRange = { firstMessageId: null, lastMessageId: null };
    const pieces = exportText(this.#pages(ids, ends), ndjsonEncoder(this.#retention), counts, true);
    await this.#archive.append(this.#clock.now(), {
      lines: texts(pieces),
      counts: () => ({ ...counts, ...ends }),
    });
  }

  async *#pages(ids: readonly string[], ends: IdRange): AsyncGenerator<readonly ExportPart[]> {
    for (const conversationId of ids) {
      for await (const parts of this.#source.read({ ...WHOLE, conversationId })) {
        for (const { messages } of parts) {
          ends.firstMessageId ??= messages[0]?.uid ?? null;
          ends.lastMessageId = messages.at(-1)?.uid ?? ends.lastMessageId;
        }
        yield parts;
      }
    }
  }
}

interface IdRange {
  firstMessageId: string | null;
  lastMessageId: string | null;
}

async function* texts(pieces: AsyncIterable<{ readonly text: string }>): AsyncGenerator<string> {
  for await (const { text } of pieces) if (text !== '') yield text;
}
