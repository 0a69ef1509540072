import type { TurnWrite, TurnWriter } from '../../domain/chat/turns.ts';
import type { Log } from '../../domain/runtime.ts';

const RETRY_MS = 1000;
/** In UTF-16 units. */
const MAX_LENGTH = 32 * 1024 * 1024;

/**
 * Ends of replies that neither database nor journal accepted, as on a full disk. They are retried, because their rows
 * would stay `streaming` as long as this process runs.
 */
export class FailedWriteQueue {
  readonly #writer: Pick<TurnWriter, 'write'>;
  readonly #log: Log;
  readonly #waiting = new Map<string, TurnWrite>();
  #length = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(writer: Pick<TurnWriter, 'write'>, log: Log) {
    this.#writer = writer;
    this.#log = log;
  }

  add(uid: string, unit: TurnWrite): void {
    const length = unit.reply?.content.length ?? 0;
    if (this.#length + length > MAX_LENGTH) {
      this.#log.error({ message_id: uid }, 'failed write queue is full, end of reply lost');
      return;
    }
    this.#waiting.set(uid, unit);
    this.#length += length;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#timer || this.#waiting.size === 0) return;
    this.#timer = setTimeout(() => void this.#retry(), RETRY_MS).unref();
  }

  async #retry(): Promise<void> {
    for (const [uid, unit] of this.#waiting) {
      try {
        await this.#writer.write(unit);
      } catch {
        break;
      }
      this.#waiting.delete(uid);
      this.#length -= unit.reply?.content.length ?? 0;
      this.#log.info({ message_id: uid }, 'reply saved by a retry');
    }
    this.#timer = undefined;
    this.#schedule();
  }
}
