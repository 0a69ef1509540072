/** Bounds on one reply. Milliseconds and bytes of UTF-8. */
export interface ReplyLimits {
  readonly firstTokenTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly replyMaxBytes: number;
  readonly replyMaxMs: number;
}

/** The largest JSON of a reply of `replyMaxBytes`: six bytes for each when every character is escaped. */
export function wireBytes(replyMaxBytes: number): number {
  return 6 * replyMaxBytes + 64 * 1024;
}
