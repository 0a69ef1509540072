/** How often something may be done, and counting it. */
import type { Instant } from './conversation.ts';

/** So much for each subject in each window; windows begin at whole multiples of their length since 1970 (UTC). */
export interface Policy {
  /** Printable ASCII; what callers see in `RateLimit-Policy` and in a 429. */
  readonly name: string;
  readonly limit: number;
  /** Null: no window, but how much there may be at once. */
  readonly windowSeconds: number | null;
  readonly unit: 'requests' | 'tokens' | 'concurrent-requests';
}

export interface Decision {
  readonly policy: Policy;
  readonly allowed: boolean;
  /** Never below 0. */
  readonly remaining: number;
  /** Until the window ends, rounded up; null where there is no window. */
  readonly resetSeconds: number | null;
}

/** A policy that counts in windows. */
export type WindowPolicy = Policy & {
  readonly windowSeconds: number;
  /** So much later than at whole multiples of their length the windows begin. */
  readonly offsetSeconds?: number;
  /** What is counted goes down as well, so others may have made room: they are asked before somebody is refused. */
  readonly falls?: boolean;
};

export interface RateLimiter {
  /**
   * Counts `cost` if that is still within the limit. Most decisions come at once; a promise (which never rejects) is
   * for when other processes have to be asked first.
   * @param cost 0 asks whether anything is left
   */
  take(policy: WindowPolicy, subject: string, cost?: number): Decision | Promise<Decision>;
  /** Counts what has happened already, over the limit too. */
  charge(policy: WindowPolicy, subject: string, cost: number): void;
  /** What is known here, counting nothing and asking nobody. */
  peek(policy: WindowPolicy, subject: string): Decision;
}

/** A decision that, where it is allowed, holds a place until it is released. */
export interface Permit extends Decision {
  /** Once is enough; again changes nothing. */
  release(): void;
}

/** How much is open at once. */
export interface PermitPool {
  /** A promise, which never rejects, is for when other processes have to be asked first. */
  acquire(policy: Policy, subject: string): Permit | Promise<Permit>;
}

export interface Addition {
  /** The policy's name and the subject. */
  readonly counter: string;
  readonly windowStart: Instant;
  readonly windowMs: number;
  /** Negative gives back; 0 only asks. */
  readonly points: number;
}

/** Counters that several processes share. */
export interface CounterStore {
  /**
   * Adds to each counter and tells how much it then holds, in the same order. A rejection means that nobody knows what
   * was added.
   * @param ranked every number is one that only this addition led to: what others add meanwhile is not in it, and they
   *   learn a larger one. Otherwise it may be in it.
   */
  add(additions: readonly Addition[], ranked: boolean): Promise<number[]>;
}
