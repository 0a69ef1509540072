import type { Instant } from '../domain/conversation.ts';
import type { Addition, Decision, WindowPolicy } from '../domain/limits.ts';

/** Somebody whose turn the store decides. */
export interface Waiter {
  readonly cost: number;
  readonly decide: (decision: Decision) => void;
}

/** What one subject has used up of one policy in one window, as far as this process knows. */
export class Counter {
  readonly policy: WindowPolicy;
  readonly subject: string;
  readonly windowStart: Instant;
  /** What the store said last; alone, all there is. */
  known = 0;
  /** On its way to the store. */
  sent = 0;
  /** Counted here, and the store does not know of it yet; negative when something goes back. */
  pending = 0;
  /** What those who wait want. */
  queued = 0;
  waiters: Waiter[] = [];
  /** Those who want to know what the store says, counting nothing. */
  listeners: (() => void)[] = [];
  /** Whether the store was asked in this window. */
  fresh = false;
  /** When it was last sent to the store, and when it is to be next; monotonic. */
  sentAt = Number.NEGATIVE_INFINITY;
  dueAt = Number.POSITIVE_INFINITY;

  constructor(policy: WindowPolicy, subject: string, windowStart: Instant) {
    this.policy = policy;
    this.subject = subject;
    this.windowStart = windowStart;
  }

  get used(): number {
    return this.known + this.sent + this.pending + this.queued;
  }

  decision(allowed: boolean, now: Instant, used = this.used): Decision {
    const { policy, windowStart } = this;
    const left = windowStart + policy.windowSeconds * 1000 - now;
    return {
      policy,
      allowed,
      remaining: Math.max(0, policy.limit - used),
      resetSeconds: Math.max(0, Math.ceil(left / 1000)),
    };
  }
}

/** A counter on its way to the store. */
export interface Sending {
  readonly counter: Counter;
  /** Of those in it who waited, what they want. */
  readonly wanted: number;
  readonly points: number;
  waiters: readonly Waiter[];
  readonly listeners: (() => void)[];
}

/** When the window began in which `now` lies. */
export function windowStart({ windowSeconds, offsetSeconds = 0 }: WindowPolicy, now: Instant): Instant {
  return now - ((now - offsetSeconds * 1000) % (windowSeconds * 1000));
}

export function addition({ counter: { policy, subject, windowStart: start }, points }: Sending): Addition {
  return {
    counter: `${policy.name}\n${subject}`,
    windowStart: start,
    windowMs: policy.windowSeconds * 1000,
    points,
  };
}
