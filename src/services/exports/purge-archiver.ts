import type { PurgeArchive } from '../../domain/conversations/purge.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import type { ExportPage, ExportScope, ExportSource } from '../../domain/exports/exports.ts';
import type { Clock } from '../../domain/runtime.ts';
import { ndjsonEncoder } from './encoders.ts';
import { exportText, type IdRange, trackIds } from './text.ts';

const UNBOUNDED: Omit<ExportScope, 'conversationId'> = {
  filter: { owner: null, from: null, to: null, role: null, status: null },
  activeSince: Number.NEGATIVE_INFINITY,
  lastCreated: Number.POSITIVE_INFINITY,
  since: null,
};

/** Appends conversations to the purge archive, in the format of an NDJSON export. */
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
  async append(ids: readonly string[]): Promise<void> {
    const counts = { conversations: 0, messages: 0 };
    const range: IdRange = { firstMessageId: null, lastMessageId: null };
    const pages = trackIds(this.#read(ids), range);
    await this.#archive.append(this.#clock.now(), {
      lines: textOnly(exportText(pages, ndjsonEncoder(this.#retention), counts, true)),
      counts: () => ({ ...counts, ...range }),
    });
  }

  async *#read(ids: readonly string[]): AsyncGenerator<ExportPage> {
    for (const conversationId of ids) yield* this.#source.read({ ...UNBOUNDED, conversationId });
  }
}

async function* textOnly(pieces: AsyncIterable<{ readonly text: string }>): AsyncGenerator<string> {
  for await (const { text } of pieces) if (text !== '') yield text;
}
