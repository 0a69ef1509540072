/** Limits of one reply, in milliseconds and bytes of UTF-8. */
export interface ReplyLimits {
  readonly firstTokenTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly replyMaxBytes: number;
  readonly replyMaxMs: number;
  /** Whether `<think>…</think>` at the start of a text is reasoning. */
  readonly reasoningTags: boolean;
}

/** The bytes of UTF-8 that all texts of a reply may have in total. */
export class ByteBudget {
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  get left(): number {
    return Math.max(0, this.#left);
  }

  get isExceeded(): boolean {
    return this.#left < 0;
  }

  take(bytes: number): void {
    this.#left -= bytes;
  }
}

/** The largest JSON of a reply of `replyMaxBytes`. An escaped character takes six bytes. */
export function wireBytes(replyMaxBytes: number): number {
  return 6 * replyMaxBytes + 64 * 1024;
}
