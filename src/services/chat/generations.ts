import type { CallContext, ChatModel, ModelOutcome, ModelRequest } from '../../domain/chat/model.ts';
import type { ResponseCache } from '../../domain/chat/response-cache.ts';
import type { TextFormat } from '../../domain/chat/text-format.ts';
import { withoutOldest } from '../../domain/conversations/context.ts';
import { AppError } from '../../domain/errors.ts';
import type { Log } from '../../domain/runtime.ts';
import { Generation } from './generation.ts';

const STARTS_WITH_WORD = /^[\p{L}\p{N}]/u;
/** Only this much of a reply is searched for text. A reply with more empty Markdown at its start is not cached. */
const MAX_EMPTY_CHARS = 4096;

/** `whole`: the caller waits for the whole reply; `stream`: it reads while the reply is generated. */
export type ReplyMode = 'whole' | 'stream';

export type CacheUse =
  | { readonly kind: 'hit'; readonly ttlMs: number }
  | { readonly kind: 'miss' }
  | { readonly kind: 'collapsed' }
  | { readonly kind: 'bypass' };

/** Which callers share cached replies and running calls. */
export interface CacheSharing {
  /** Callers of this owner; null: all callers. */
  readonly owner: string | null;
  /** The turn joins no running call with the same key, and no other turn joins its call. */
  readonly isSolitary?: true;
}

export interface OpenedGeneration {
  readonly generation: Generation;
  readonly cache: CacheUse;
}

interface Shared extends CacheSharing {
  /** The cache key of the request. */
  readonly key: string;
}

/** Takes replies from the response cache, a running call or a new call, and lists the running calls of this process. */
export class Generations {
  readonly #model: ChatModel;
  readonly #cache: ResponseCache;
  readonly #text: TextFormat;
  readonly #max: number;
  readonly #log: Log;
  readonly #running = new Set<Generation>();
  /** Running calls by mode and cache key: identical requests share one. */
  readonly #flights: Record<ReplyMode, Map<string, Generation>> = { whole: new Map(), stream: new Map() };

  /**
   * @param text decides whether a reply has text: Markdown can consist of marks alone
   * @param max concurrent calls to the model
   */
  constructor(model: ChatModel, cache: ResponseCache, text: TextFormat, max: number, log: Log) {
    this.#text = text;
    this.#model = model;
    this.#cache = cache;
    this.#max = max;
    this.#log = log;
  }

  get open(): number {
    return this.#running.size;
  }

  /**
   * @param sharing undefined: bypass the cache
   * @throws AppError `capacity` when too many calls are open
   */
  start(
    request: ModelRequest,
    mode: ReplyMode,
    sharing: CacheSharing | undefined,
    conversationId?: string,
  ): OpenedGeneration {
    if (!sharing || !this.#cache.enabled) {
      return { generation: this.#call(request, mode, conversationId), cache: { kind: 'bypass' } };
    }
    const key = this.#cache.keyOf(request, sharing.owner);
    const hit = this.#hit(key);
    if (hit) return hit;
    const flight = sharing.isSolitary ? undefined : this.#flight(key, mode);
    if (flight) return { generation: flight, cache: { kind: 'collapsed' } };
    const shared = { ...sharing, key };
    return { generation: this.#call(request, mode, conversationId, shared), cache: { kind: 'miss' } };
  }

  /** The cached reply, if there is one. Does not call the model. */
  cached(request: ModelRequest, sharing: CacheSharing | undefined): OpenedGeneration | undefined {
    if (!sharing || !this.#cache.enabled) return undefined;
    return this.#hit(this.#cache.keyOf(request, sharing.owner));
  }

  #hit(key: string): OpenedGeneration | undefined {
    const hit = this.#cache.get(key);
    return hit && { generation: Generation.of(hit.reply), cache: { kind: 'hit', ttlMs: hit.ttlMs } };
  }

  /** Resolves when no call to the model is open. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all([...this.#running].map((one) => one.ended));
  }

  /** Aborts all running calls; the text so far is kept. */
  abortAll(reason: AppError): void {
    for (const generation of this.#running) generation.abort(reason);
  }

  /** A stream joins only a stream, because a call for a whole reply produces nothing until its end. */
  #flight(key: string, mode: ReplyMode): Generation | undefined {
    const flight =
      this.#flights.stream.get(key) ?? (mode === 'whole' ? this.#flights.whole.get(key) : undefined);
    return flight?.signal.aborted ? undefined : flight;
  }

  #call(
    request: ModelRequest,
    mode: ReplyMode,
    conversationId: string | undefined,
    shared?: Shared,
  ): Generation {
    if (this.#running.size >= this.#max) {
      throw new AppError('capacity', 'Too many replies are being generated; try again in a moment.', {
        retryAfter: 1,
      });
    }
    const generation = new Generation(conversationId);
    this.#running.add(generation);
    if (shared && !shared.isSolitary) this.#flights[mode].set(shared.key, generation);
    void this.#run(request, mode, generation, shared);
    return generation;
  }

  async #run(request: ModelRequest, mode: ReplyMode, generation: Generation, shared?: Shared): Promise<void> {
    let end: () => void;
    try {
      const outcome = await this.#complete(request, mode, generation);
      if (shared && outcome.finishReason === 'stop' && !outcome.truncated) {
        this.#store(request, shared, outcome, generation);
      }
      end = () => generation.finish(outcome);
    } catch (error) {
      const failure = this.#asAppError(error);
      end = () => generation.fail(failure);
    }
    // Deregister before notifying, so that a repeated request hits the cache and not this finished call.
    this.#running.delete(generation);
    if (shared && this.#flights[mode].get(shared.key) === generation) this.#flights[mode].delete(shared.key);
    end();
  }

  /**
   * The cache key is that of the messages that were sent: fewer than requested if the model rejected them as too long.
   */
  #store(request: ModelRequest, shared: Shared, outcome: ModelOutcome, generation: Generation): void {
    const { text: content, reasoning } = generation;
    const { omitted = 0, upstream, ...reply } = outcome;
    // A reply of the fallback is of another model than the key says. Log probabilities are not cached.
    if (upstream === 'fallback' || generation.logprobs || !this.#isReadable(content)) return;
    const sent = omitted > 0 ? { ...request, messages: withoutOldest(request.messages, omitted) } : request;
    const key = sent === request ? shared.key : this.#cache.keyOf(sent, shared.owner);
    this.#cache.set(key, { ...reply, content, ...(reasoning !== '' && { reasoning }) });
  }

  /** Whether the reply has text in both formats. Most replies begin with a letter, which the text format keeps. */
  #isReadable(content: string): boolean {
    return (
      STARTS_WITH_WORD.test(content) || this.#text.whole(content.slice(0, MAX_EMPTY_CHARS)).trim() !== ''
    );
  }

  async #complete(request: ModelRequest, mode: ReplyMode, generation: Generation) {
    const { signal, conversationId } = generation;
    const context: CallContext = {
      ...(conversationId !== undefined && { conversationId }),
      connected: () => generation.connected(),
      refuses: () => {
        generation.refuses = true;
      },
      logprobs: (piece) => generation.appendLogprobs(piece),
      answersFrom: (upstream) => {
        generation.upstream = upstream;
      },
    };
    if (mode === 'stream') {
      const on = {
        content: (piece: string) => generation.append(piece),
        reasoning: (piece: string) => generation.appendReasoning(piece),
      };
      return this.#model.stream(request, on, signal, context);
    }
    const { content, reasoning, ...outcome } = await this.#model.complete(request, signal, context);
    generation.addTexts({ content, ...(reasoning && { reasoning }) });
    return outcome;
  }

  #asAppError(error: unknown): AppError {
    if (error instanceof AppError) return error;
    this.#log.error({ err: error }, 'unhandled error in a call to the model');
    return new AppError('internal', undefined, { cause: error });
  }
}
