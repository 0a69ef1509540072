/** Rate limits: what is allowed, what was decided, and where it is counted. */
import type { Instant } from '../conversations/conversation.ts';

/** A limit for each subject. Windows begin at whole multiples of their length since 1970 (UTC). */
export interface Policy {
  /** Printable ASCII; callers see it in `RateLimit-Policy` and in a 429. */
  readonly name: string;
  readonly limit: number;
  /** Null limits what is open at the same time. */
  readonly windowSeconds: number | null;
  readonly unit: 'requests' | 'tokens' | 'concurrent-requests';
}

export type WindowPolicy = Policy & { readonly windowSeconds: number };

export interface Decision {
  readonly policy: Policy;
  readonly allowed: boolean;
  /** Never below 0. */
  readonly remaining: number;
  /** Until the window ends, rounded up; null where there is no window. */
  readonly resetSeconds: number | null;
}

export interface RateLimiter {
  /** Counts one unit if the limit allows it. Never rejects. */
  take(policy: WindowPolicy, subject: string): Promise<Decision>;
  /** Whether anything is left; counts nothing. Never rejects. */
  check(policy: WindowPolicy, subject: string): Promise<Decision>;
  /** Counts what was used already, beyond the limit too. */
  charge(policy: WindowPolicy, subject: string, cost: number): void;
}

/** A decision that, where it is allowed, occupies one of the open slots until it is released. */
export interface Permit extends Decision {
  /** Repeated calls change nothing. */
  release(): void;
}

export interface PermitPool {
  acquire(policy: Policy, subject: string): Permit;
}

export interface Addition {
  /** A hash of policy, subject and window: stores hold no addresses of callers. */
  readonly id: string;
  readonly points: number;
  readonly windowEnd: Instant;
  readonly windowMs: number;
}

/** Counters that several processes share, or that survive a restart. */
export interface CounterStore {
  /**
   * Adds atomically. A rejection leaves open whether the points were added.
   * @returns the total including these points and none that were added later
   */
  add(addition: Addition): Promise<number>;
}
