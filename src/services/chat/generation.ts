import type { Logprobs, ModelOutcome, ModelReply, Upstream } from '../../domain/chat/model.ts';
import type { AppError } from '../../domain/errors.ts';

/**
 * One call to the model and the pieces of its reply. Any number of readers can read it; each remembers its own
 * position. The text is not one growing string, because V8 copies such a string at every read, so that the time for a
 * long reply would grow with the square of its length.
 */
export class Generation {
  readonly conversationId: string | undefined;
  readonly pieces: string[] = [];
  /** In UTF-16 units. */
  length = 0;
  /** The pieces of the model's reasoning, which comes before the reply. */
  readonly reasoningPieces: string[] = [];
  reasoningLength = 0;
  /** When the last attempt had a connection for its request, on the monotonic clock. */
  connectedAt: number | undefined;
  /** Which of two model servers replies; undefined if there is one, or until it is known. */
  upstream: Upstream | undefined;
  /** Whether the text is the model's refusal to answer. */
  refuses = false;
  /** Undefined if the model server sends none. */
  logprobs: { readonly [Text in keyof Logprobs]: unknown[] } | undefined;
  /** When the first piece of text or reasoning came, on the monotonic clock. */
  firstAt: number | undefined;
  /** Set when the reply ended, also when a limit of this server cut it. */
  outcome: ModelOutcome | undefined;
  /** Set when it failed; `pieces` keeps the text before the error. */
  error: AppError | undefined;
  readonly #ended = Promise.withResolvers<void>();
  /** Resolves at the end, also after an error; never rejects. */
  readonly ended = this.#ended.promise;

  readonly #watchers = new Set<() => void>();
  readonly #abort = new AbortController();
  #holders = 0;

  /** @param conversationId of the turn that makes the call */
  constructor(conversationId?: string) {
    this.conversationId = conversationId;
  }

  /** A generation that has ended, such as one from the cache. */
  static of(reply: ModelReply): Generation {
    const generation = new Generation();
    generation.addTexts(reply);
    generation.finish(reply);
    return generation;
  }

  get running(): boolean {
    return this.outcome === undefined && this.error === undefined;
  }

  /** Aborted when no turn needs the reply. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get text(): string {
    return this.pieces.join('');
  }

  get reasoning(): string {
    return this.reasoningPieces.join('');
  }

  connected(): void {
    this.connectedAt = performance.now();
  }

  append(piece: string): void {
    this.firstAt ??= performance.now();
    this.pieces.push(piece);
    this.length += piece.length;
    this.#notify();
  }

  appendReasoning(piece: string): void {
    this.firstAt ??= performance.now();
    this.reasoningPieces.push(piece);
    this.reasoningLength += piece.length;
    this.#notify();
  }

  appendLogprobs({ content, refusal }: Logprobs): void {
    this.logprobs ??= { content: [], refusal: [] };
    // Not push(...content): the number of arguments is limited, and a long reply has more tokens.
    for (const token of content) this.logprobs.content.push(token);
    for (const token of refusal) this.logprobs.refusal.push(token);
  }

  /** Appends the texts of a whole reply, or of a later part of it. */
  addTexts({ content, reasoning }: { readonly content: string; readonly reasoning?: string | null }): void {
    if (reasoning) this.appendReasoning(reasoning);
    if (content !== '') this.append(content);
  }

  finish(outcome: ModelOutcome): void {
    this.outcome = outcome;
    // The outcome of a blocked stream does not name it.
    this.upstream = outcome.upstream ?? this.upstream;
    this.#end();
  }

  fail(error: AppError): void {
    this.error = error;
    this.#end();
  }

  /** Calls `watcher` after every piece and at the end, until the returned function is called. */
  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** Counts a turn that needs the reply. The returned function releases it; the last release aborts the call. */
  hold(): (reason: unknown) => void {
    this.#holders += 1;
    let held = true;
    return (reason) => {
      if (!held) return;
      held = false;
      this.#holders -= 1;
      if (this.#holders === 0 && this.running) this.#abort.abort(reason);
    };
  }

  /** Aborts the call for all turns that share it. */
  abort(reason: AppError): void {
    if (this.running) this.#abort.abort(reason);
  }

  #notify(): void {
    for (const watcher of this.#watchers) watcher();
  }

  #end(): void {
    this.#ended.resolve();
    this.#notify();
    this.#watchers.clear();
  }
}
