import type { Instant } from '../../domain/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { ReplyStore, StoredKey } from '../../domain/turns.ts';
import type { StoredStreams } from './stored-streams.ts';
import type { Turn } from './turn.ts';
import type { TurnRecorder } from './turn-recorder.ts';

/** A caller's idempotency key. Both are SHA-256 in hexadecimal. */
export interface IdempotencyKey {
  /** Of the key, the route and the caller. */
  readonly id: string;
  /** Of what was asked. */
  readonly bodyHash: string;
}

/** Somebody else claimed the key at the same moment. */
export const KEY_IN_USE = Symbol('taken');

/** Starts the turn, claiming the key with it; `before` is the turn with this key whose reply failed. */
type Start = (before: StoredKey | null) => Promise<Turn | typeof KEY_IN_USE>;

/** Whoever loses a claim finds the winner's at once; this often only when turns fail as fast as they start. */
const CLAIMS = 5;

/** Sees to it that of all requests with one key, on all workers, one makes a turn and the others join it. */
export class IdempotentTurns {
  readonly #replies: ReplyStore;
  readonly #recorder: TurnRecorder;
  readonly #stored: StoredStreams;
  readonly #running = new Map<string, { readonly bodyHash: string; readonly turn: Promise<Turn> }>();

  constructor(replies: ReplyStore, recorder: TurnRecorder, stored: StoredStreams) {
    this.#replies = replies;
    this.#recorder = recorder;
    this.#stored = stored;
  }

  /** @throws AppError `idempotency_mismatch` when the key was used for another body, `database_unavailable` */
  async run(key: IdempotencyKey, activeSince: Instant, start: Start): Promise<Turn> {
    const running = this.#running.get(key.id);
    if (running && running.bodyHash !== key.bodyHash) {
      // Which of the two has the key is known when the other one has found out.
      await running.turn.catch(() => {});
      return this.#find(key, activeSince, start);
    }
    if (running) {
      const turn = await running.turn;
      // What is read from the store has a reader of its own for each.
      return turn.cache ? { ...turn, replayed: true } : this.#find(key, activeSince, start);
    }
    const turn = this.#find(key, activeSince, start);
    this.#running.set(key.id, { bodyHash: key.bodyHash, turn });
    const forget = () => void this.#running.delete(key.id);
    turn.then(({ cache, result }) => (cache ? result.then(forget, forget) : forget()), forget);
    return turn;
  }

  async #find(key: IdempotencyKey, activeSince: Instant, start: Start): Promise<Turn> {
    for (let claim = 0; claim < CLAIMS; claim++) {
      const stored = await this.#replies.key(key.id, activeSince);
      if (stored) checkBody(key, stored.bodyHash);
      const turn = (stored && (await this.#join(stored))) ?? (await start(stored));
      if (turn !== KEY_IN_USE) return turn;
    }
    throw new AppError('database_unavailable', 'This key is being claimed again and again', {
      retryAfter: 1,
    });
  }

  /** The turn that is there, running or ended; null when its reply failed and is to be made anew. */
  async #join(stored: StoredKey): Promise<Turn | null> {
    const { replyId, cached } = stored;
    const running = this.#recorder.find(replyId);
    if (running) return { ...running, cache: undefined, cached, replayed: true };
    const reply = await this.#replies.find(replyId);
    const failed =
      !reply || (reply.message.status === 'incomplete' && reply.message.finishReason === 'error');
    return failed ? null : { ...this.#stored.open(reply), cache: undefined, cached, replayed: true };
  }
}

function checkBody(key: IdempotencyKey, bodyHash: string): void {
  if (key.bodyHash === bodyHash) return;
  throw new AppError('idempotency_mismatch', 'This Idempotency-Key was used for another request before');
}
