import type { TurnWrite, TurnWriter } from '../../domain/chat/turns.ts';
import { isDatabaseError } from '../../domain/errors.ts';
import type { Log } from '../../domain/runtime.ts';

const RETRY_MS = 1000;
/** Applies to errors that the write itself caused; another writer may remove their cause. */
const MAX_ATTEMPTS = 10;
/** In UTF-16 units. */
const MAX_LENGTH = 32 * 1024 * 1024;

interface FailedWrite {
  readonly unit: TurnWrite;
  /** Failures that the write caused. Failures of the database do not count. */
  attempts: number;
}

/**
 * Retries writes of ended replies that neither the database nor the journal accepted, as on a full disk. Without a
 * retry their rows would stay `streaming` as long as this process runs.
 */
export class FailedWriteQueue {
  readonly #writer: Pick<TurnWriter, 'write'>;
  readonly #log: Log;
  readonly #waiting = new Map<string, FailedWrite>();
  #length = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(writer: Pick<TurnWriter, 'write'>, log: Log) {
    this.#writer = writer;
    this.#log = log;
  }

  add(uid: string, unit: TurnWrite): void {
    const length = lengthOf(unit);
    if (this.#length + length > MAX_LENGTH) {
      this.#log.error({ message_id: uid }, 'failed write queue is full, end of reply lost');
      return;
    }
    this.#waiting.set(uid, { unit, attempts: 0 });
    this.#length += length;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#timer || this.#waiting.size === 0) return;
    this.#timer = setTimeout(() => void this.#retry(), RETRY_MS).unref();
  }

  /** Retries all writes at the same time, so that a locked or rejected one does not delay the others. */
  async #retry(): Promise<void> {
    await Promise.all([...this.#waiting].map(([uid, write]) => this.#write(uid, write)));
    this.#timer = undefined;
    this.#schedule();
  }

  async #write(uid: string, write: FailedWrite): Promise<void> {
    const fields = { message_id: uid };
    try {
      const outcome = await this.#writer.write(write.unit);
      if (outcome === 'gone') this.#log.info(fields, 'failed write dropped, conversation deleted');
      else if (outcome === 'replaced') this.#log.info(fields, 'failed write dropped, reply replaced');
      else this.#log.info(fields, 'reply saved by a retry');
    } catch (error) {
      if (!isDatabaseError(error)) write.attempts += 1;
      if (write.attempts < MAX_ATTEMPTS) return;
      this.#log.error({ err: error, ...fields, attempts: write.attempts }, 'end of reply lost');
    }
    this.#waiting.delete(uid);
    this.#length -= lengthOf(write.unit);
  }
}

function lengthOf({ reply }: TurnWrite): number {
  return reply ? reply.content.length + (reply.reasoning?.length ?? 0) : 0;
}
