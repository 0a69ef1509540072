import { hash } from 'node:crypto';
import type { CounterStore, Decision, RateLimiter, WindowPolicy } from '../domain/access/limits.ts';
import type { Instant } from '../domain/conversations/conversation.ts';
import type { Clock, Log } from '../domain/runtime.ts';
import { RecentMap } from '../util/recent-map.ts';
import { within } from '../util/timers.ts';

/** A store that takes longer counts as down. */
const STORE_TIMEOUT_MS = 500;
const TICKS = 10;
const RETRY_MS = 1000;
const STOP_TIMEOUT_MS = 1000;
/** How old a shared total may be for `check`. */
const MAX_AGE_MS = 1000;
/** Callers choose how many subjects there are, so the oldest counters are dropped. */
const MAX_COUNTERS = 100_000;
/** A process that is alone keeps windows up to this length in memory; longer ones survive a restart. */
const MEMORY_WINDOW_SECONDS = 60;

/** What one subject has used of one policy in one window, as far as this process knows. */
interface Counter {
  readonly policy: WindowPolicy;
  readonly key: string;
  readonly windowStart: Instant;
  used: number;
  /** Points that a failed addition left; they join the next one. */
  unsent: number;
  /** When the store last reported its total; monotonic. */
  reportedAt: number;
  /** Collects points while the previous batch is under way. */
  batch?: { points: number } | undefined;
  /** The total after the last batch. */
  sent: Promise<number | undefined>;
}

/**
 * Exact limits. A process that is alone decides in memory. Several processes let the store decide: one addition a
 * request, or one for all requests of a subject that arrive while the previous one is under way. While the store is
 * down or slow each process decides by itself.
 */
export class Limiter implements RateLimiter {
  readonly #options;
  readonly #counters = new RecentMap<Counter>(MAX_COUNTERS);
  #isDown = false;
  #retryAt = 0;

  /** @param options isAlone: whether no other process counts in the store; may change */
  constructor(options: { store: CounterStore; isAlone: () => boolean; clock: Clock; log: Log }) {
    this.#options = options;
  }

  async take(policy: WindowPolicy, subject: string): Promise<Decision> {
    const counter = this.#counter(policy, subject);
    // Totals only grow within a window, so a full counter needs no store.
    if (counter.used >= policy.limit) return this.#decision(counter, false);
    if (this.#decidesAlone(counter)) {
      this.#count(counter, 1);
      return this.#decision(counter, true);
    }
    const total = (await this.#add(counter, 1)) ?? ++counter.used;
    return this.#decision(counter, total <= policy.limit, total);
  }

  async check(policy: WindowPolicy, subject: string): Promise<Decision> {
    const counter = this.#counter(policy, subject);
    const isFresh = performance.now() - counter.reportedAt < MAX_AGE_MS;
    if (counter.used < policy.limit && !isFresh && !this.#decidesAlone(counter)) await this.#add(counter, 0);
    return this.#decision(counter, counter.used < policy.limit);
  }

  charge(policy: WindowPolicy, subject: string, cost: number): void {
    this.#count(this.#counter(policy, subject), cost);
  }

  /** Waits until the store has all counts, unless it takes too long. */
  async stop(): Promise<void> {
    const sent = Promise.all(Array.from(this.#counters.values(), ({ sent }) => sent));
    await within(STOP_TIMEOUT_MS, sent, () => []);
  }

  #counter(policy: WindowPolicy, subject: string): Counter {
    const key = `${policy.name}\n${subject}`;
    const now = this.#options.clock.now();
    const windowStart = now - (now % (policy.windowSeconds * 1000));
    const known = this.#counters.get(key);
    if (known?.windowStart === windowStart) return known;
    const unused = { used: 0, unsent: 0, reportedAt: -Infinity, sent: Promise.resolve(undefined) };
    const counter: Counter = { policy, key, windowStart, ...unused };
    this.#counters.set(key, counter);
    return counter;
  }

  #decision({ policy, windowStart, used }: Counter, allowed: boolean, total = used): Decision {
    const leftMs = windowStart + policy.windowSeconds * 1000 - this.#options.clock.now();
    return {
      policy,
      allowed,
      remaining: Math.max(0, policy.limit - total),
      resetSeconds: Math.max(0, Math.ceil(leftMs / 1000)),
    };
  }

  #isInMemory({ windowSeconds }: WindowPolicy): boolean {
    return windowSeconds <= MEMORY_WINDOW_SECONDS && this.#options.isAlone();
  }

  #decidesAlone({ policy, reportedAt }: Counter): boolean {
    if (this.#isDown || this.#isInMemory(policy)) return true;
    return reportedAt > -Infinity && this.#options.isAlone();
  }

  /** Counts here; the store follows. */
  #count(counter: Counter, points: number): void {
    counter.used += points;
    if (!this.#isInMemory(counter.policy)) void this.#add(counter, points);
  }

  /** The store's total right after these points, or undefined when it is down or slow. Never rejects. */
  async #add(counter: Counter, points: number): Promise<number | undefined> {
    if (!counter.batch) {
      counter.batch = { points: 0 };
      counter.sent = counter.sent.then(() => this.#send(counter));
    }
    const { batch, sent } = counter;
    batch.points += points;
    const position = batch.points;
    const total = await sent;
    return total === undefined ? undefined : total - batch.points + position;
  }

  async #send(counter: Counter): Promise<number | undefined> {
    const { key, policy, windowStart } = counter;
    const points = counter.unsent + (counter.batch?.points ?? 0);
    counter.unsent = points;
    counter.batch = undefined;
    const now = performance.now();
    if (this.#isDown && now < this.#retryAt) return undefined;
    this.#retryAt = now + RETRY_MS;
    counter.unsent = 0;
    const windowMs = policy.windowSeconds * 1000;
    // A hash, so that stores hold no addresses of callers.
    const id = hash('sha256', `${key}\n${windowStart}`, 'base64url');
    const adding = this.#options.store.add({ id, points, windowEnd: windowStart + windowMs, windowMs });
    adding.catch(() => {
      counter.unsent += points;
    });
    try {
      const total = await inTime(adding);
      if (this.#isDown) this.#options.log.info({}, 'rate limit store available again');
      this.#isDown = false;
      counter.reportedAt = performance.now();
      counter.used = Math.max(counter.used, total);
      return total;
    } catch (err) {
      if (!this.#isDown) this.#options.log.warn({ err }, 'rate limit store unavailable, counting locally');
      this.#isDown = true;
      setTimeout(() => this.#add(counter, 0), RETRY_MS).unref();
      return undefined;
    }
  }
}

/** Rejects after the timeout, in ticks: a busy process may have received the result without having read it. */
function inTime<T>(adding: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    let ticks = 0;
    const timer = setInterval(() => {
      if (++ticks === TICKS) reject(new Error(`no response within ${STORE_TIMEOUT_MS} ms`));
    }, STORE_TIMEOUT_MS / TICKS);
    adding.then(resolve, reject).finally(() => clearInterval(timer));
  });
}
