import { AppError } from '../../domain/errors.ts';
import type { ChatModel, ModelRequest } from '../../domain/model.ts';
import type { ResponseCache } from '../../domain/response-cache.ts';
import type { Log } from '../../domain/runtime.ts';
import { Generation } from './generation.ts';

/** `whole`: the caller waits for the whole reply; `stream`: it reads along. */
export type ReplyMode = 'whole' | 'stream';

export type CacheUse =
  | { readonly kind: 'hit'; readonly ttlMs: number }
  | { readonly kind: 'miss' }
  | { readonly kind: 'collapsed' }
  | { readonly kind: 'bypass' };

/** Who shares replies in the response cache, and calls under way. */
export interface CacheSharing {
  /** Only whoever asks for the same owner; null: everybody. */
  readonly owner: string | null;
}

export interface OpenedGeneration {
  readonly generation: Generation;
  readonly cache: CacheUse;
}

/** Every reply that is being made in this process: from the cache, joined, or by a call to the model of its own. */
export class Generations {
  readonly #model: ChatModel;
  readonly #cache: ResponseCache;
  readonly #max: number;
  readonly #log: Log;
  readonly #running = new Set<Generation>();
  /** Calls under way by mode and key: identical questions share one. */
  readonly #flights: Record<ReplyMode, Map<string, Generation>> = { whole: new Map(), stream: new Map() };

  /** @param max how many calls to the model may be open at once */
  constructor(model: ChatModel, cache: ResponseCache, max: number, log: Log) {
    this.#model = model;
    this.#cache = cache;
    this.#max = max;
    this.#log = log;
  }

  get open(): number {
    return this.#running.size;
  }

  /**
   * @param sharing undefined: past the cache
   * @throws AppError `capacity` when too many calls are open
   */
  start(request: ModelRequest, mode: ReplyMode, sharing: CacheSharing | undefined): OpenedGeneration {
    if (!sharing || !this.#cache.enabled) {
      return { generation: this.#call(request, mode), cache: { kind: 'bypass' } };
    }
    const key = this.#cache.keyOf(request, sharing.owner);
    const hit = this.#cache.get(key);
    if (hit) return { generation: Generation.of(hit.reply), cache: { kind: 'hit', ttlMs: hit.ttlMs } };
    const flight = this.#flight(key, mode);
    if (flight) return { generation: flight, cache: { kind: 'collapsed' } };
    return { generation: this.#call(request, mode, key), cache: { kind: 'miss' } };
  }

  /** The cached reply, if there is one; nothing is started. */
  cached(request: ModelRequest, sharing: CacheSharing | undefined): OpenedGeneration | undefined {
    if (!sharing || !this.#cache.enabled) return undefined;
    const hit = this.#cache.get(this.#cache.keyOf(request, sharing.owner));
    return hit && { generation: Generation.of(hit.reply), cache: { kind: 'hit', ttlMs: hit.ttlMs } };
  }

  /** Resolves when no call to the model is open. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all([...this.#running].map((one) => one.ended));
  }

  /** Breaks off whatever is running; what was said so far stays. */
  abortAll(reason: AppError): void {
    for (const generation of this.#running) generation.abort(reason);
  }

  /** A reader of a stream joins only a stream: joining a whole reply it would see nothing until the end. */
  #flight(key: string, mode: ReplyMode): Generation | undefined {
    const flight =
      this.#flights.stream.get(key) ?? (mode === 'whole' ? this.#flights.whole.get(key) : undefined);
    return flight?.signal.aborted ? undefined : flight;
  }

  #call(request: ModelRequest, mode: ReplyMode, key?: string): Generation {
    if (this.#running.size >= this.#max) {
      throw new AppError('capacity', 'Too many replies are being made; try again in a moment', {
        retryAfter: 1,
      });
    }
    const generation = new Generation();
    this.#running.add(generation);
    if (key !== undefined) this.#flights[mode].set(key, generation);
    void this.#run(request, mode, generation, key);
    return generation;
  }

  async #run(request: ModelRequest, mode: ReplyMode, generation: Generation, key?: string): Promise<void> {
    let end: () => void;
    try {
      const outcome = await this.#ask(request, mode, generation);
      if (key !== undefined && outcome.finishReason === 'stop' && !outcome.truncated) {
        this.#cache.set(key, { ...outcome, content: generation.text });
      }
      end = () => generation.finish(outcome);
    } catch (error) {
      const failure = this.#asAppError(error);
      end = () => generation.fail(failure);
    }
    // Out of the books before anybody hears of the end: whoever asks again then finds the cache, not a dead flight.
    this.#running.delete(generation);
    if (key !== undefined && this.#flights[mode].get(key) === generation) this.#flights[mode].delete(key);
    end();
  }

  async #ask(request: ModelRequest, mode: ReplyMode, generation: Generation) {
    if (mode === 'stream') {
      return this.#model.stream(request, (piece) => generation.append(piece), generation.signal);
    }
    const { content, ...outcome } = await this.#model.complete(request, generation.signal);
    if (content !== '') generation.append(content);
    return outcome;
  }

  #asAppError(error: unknown): AppError {
    if (error instanceof AppError) return error;
    this.#log.error({ err: error }, 'the call to the model failed in a way that nobody foresaw');
    return new AppError('internal', undefined, { cause: error });
  }
}
