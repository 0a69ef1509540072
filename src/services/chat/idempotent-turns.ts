import type { IdempotencyKey, ReplyStore, StoredKey } from '../../domain/chat/turns.ts';
import type { Instant } from '../../domain/conversations/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { StoredStreams } from './stored-streams.ts';
import type { Turn } from './turn.ts';
import { KeyInUseError, type TurnRecorder } from './turn-recorder.ts';

/**
 * Starts the turn and claims the key; `failed` is the earlier turn with this key if its reply failed.
 * @throws KeyInUseError when another request claimed the key at the same time
 */
type Start = (failed: StoredKey | null) => Promise<Turn>;

/**
 * After a lost claim the turn of the other request is looked up. Claims fail repeatedly only if turns fail as fast as
 * they start.
 */
const MAX_CLAIMS = 5;

/** Makes sure that one of all requests with the same key, on all workers, creates a turn and the others join it. */
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
      // The other request may not have claimed the key yet.
      await running.turn.catch(() => {});
      return this.#findOrStart(key, activeSince, start);
    }
    if (running) {
      const turn = await running.turn;
      // A turn from the store (without `cache`) counts its readers, so each request must open it itself.
      return turn.cache ? { ...turn, replayed: true } : this.#findOrStart(key, activeSince, start);
    }
    const turn = this.#findOrStart(key, activeSince, start);
    this.#running.set(key.id, { bodyHash: key.bodyHash, turn });
    const remove = () => void this.#running.delete(key.id);
    turn.then(({ cache, result }) => (cache ? result.then(remove, remove) : remove()), remove);
    return turn;
  }

  async #findOrStart(key: IdempotencyKey, activeSince: Instant, start: Start): Promise<Turn> {
    for (let claims = 0; claims < MAX_CLAIMS; claims++) {
      const stored = await this.#replies.key(key.id, activeSince);
      if (stored) checkBody(key, stored.bodyHash);
      try {
        return (stored && (await this.#join(stored))) ?? (await start(stored));
      } catch (error) {
        if (!(error instanceof KeyInUseError)) throw error;
      }
    }
    throw new AppError(
      'database_unavailable',
      'Other requests keep claiming this key; try again in a moment.',
      {
        retryAfter: 1,
      },
    );
  }

  /** The turn of the key, running or ended; null when its reply failed and is generated again. */
  async #join({ replyId, cached }: StoredKey): Promise<Turn | null> {
    const running = this.#recorder.find(replyId);
    if (running) return { ...running, cache: undefined, cached, replayed: true };
    const reply = await this.#replies.find(replyId);
    if (!reply) return null;
    const { status, finishReason } = reply.message;
    const failed = status === 'incomplete' && finishReason === 'error' && !reply.superseded;
    return failed ? null : { ...this.#stored.open(reply), cached, replayed: true };
  }
}

function checkBody(key: IdempotencyKey, bodyHash: string): void {
  if (key.bodyHash === bodyHash) return;
  throw new AppError(
    'idempotency_mismatch',
    'This Idempotency-Key was used for another request; send a new key.',
  );
}
