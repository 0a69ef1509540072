import type { Logprobs } from '../../domain/chat/model.ts';
import { ByteBudget, wireBytes } from './limits.ts';
import { type Json, logprobsOf } from './shapes.ts';

/** Collects the log probabilities of a reply. Those beyond the size limit are dropped. */
export class LogprobsReader {
  readonly #budget: ByteBudget;
  #pending: { readonly [Text in keyof Logprobs]: unknown[] } | undefined;

  constructor(replyMaxBytes: number) {
    this.#budget = new ByteBudget(wireBytes(replyMaxBytes));
  }

  add(choice: Json): void {
    const logprobs = logprobsOf(choice);
    if (!logprobs || this.#budget.isExceeded) return;
    this.#budget.take(Buffer.byteLength(JSON.stringify(logprobs)));
    this.#pending ??= { content: [], refusal: [] };
    for (const token of logprobs.content) this.#pending.content.push(token);
    for (const token of logprobs.refusal) this.#pending.refusal.push(token);
  }

  /** Those since the last call. */
  take(): Logprobs | undefined {
    const pending = this.#pending;
    this.#pending = undefined;
    return pending;
  }
}
