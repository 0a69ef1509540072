import type { Instant } from '../domain/conversation.ts';
import type { CounterStore, Decision, RateLimiter, WindowPolicy } from '../domain/limits.ts';
import type { Clock, Log } from '../domain/runtime.ts';
import { addition, Counter, type Sending, windowStart } from './counter.ts';

/** A counter is sent to the store at most once in this time. */
const SEND_MS = 100;
/** Between two sendings, whatever counters they are of. */
const GAP_MS = 10;
/** How long somebody waits for a store that does not answer. */
const PATIENCE_MS = 500;
const PATIENCE_TICKS = 10;
const RETRY_MS = 1000;
/** How much over the limit all processes together may let through, at worst. */
const TOLERANCE = 0.2;
const MAX_COUNTERS = 100_000;
const SWEEP_MS = 60_000;
/** Alone, what is counted in such short windows may be forgotten by a restart. */
const SHORT_SECONDS = 60;
/** At the end, how long it may take to tell the store the rest. */
const LAST_WORDS_MS = 1000;

export interface LimiterOptions {
  /** Null: this process is alone, and what it counts ends with it. */
  readonly store: CounterStore | null;
  /** How many processes share the store, this one included; it may change. */
  readonly processes: () => number;
  /** Whether the short windows are shared even by one process alone, as others may be there that it knows nothing of. */
  readonly always?: boolean;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Counts here, and shares the counts in batches.
 *
 * Alone it is exact. With others, a process lets through on its own no more than its share of the tolerance before the
 * store knows of it; whoever comes beyond that waits for the next sending and gets a rank among all processes. What is
 * over the limit in the end is at most what all of them had not told yet. While the store is away everybody counts for
 * themselves.
 */
export class Limiter implements RateLimiter {
  readonly #options: LimiterOptions;
  /** By policy and subject. */
  readonly #counters = new Map<string, Map<string, Counter>>();
  /** Those that have something for the store. */
  readonly #dirty = new Set<Counter>();
  #sweepAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #sending: Promise<void> | undefined;
  #notBefore = 0;
  #away = false;
  #stopped = false;

  constructor(options: LimiterOptions) {
    this.#options = options;
  }

  take(policy: WindowPolicy, subject: string, cost = 1): Decision | Promise<Decision> {
    return this.#take(policy, subject, cost, policy.falls === true);
  }

  /** @param hopeful whether it is worth asking the store before somebody is refused */
  #take(policy: WindowPolicy, subject: string, cost: number, hopeful: boolean): Decision | Promise<Decision> {
    const now = this.#options.clock.now();
    const counter = this.#counter(policy, subject, now);
    const shared = this.#shared(policy);
    const full = counter.used + Math.max(cost, 1) > policy.limit;
    if (full) {
      if (hopeful && shared && this.#isAsked()) {
        return this.#news(counter).then(() => this.#take(policy, subject, cost, false));
      }
      // What others gave back may be news here.
      if (shared) this.#refresh(counter);
      return counter.decision(false, now);
    }
    if (!shared) {
      counter.known += cost;
      return counter.decision(true, now);
    }
    if (this.#mayDecide(counter, cost)) {
      if (cost > 0) this.#add(counter, cost);
      else this.#refresh(counter);
      return counter.decision(true, now);
    }
    return new Promise((decide) => {
      counter.waiters.push({ cost, decide });
      counter.queued += cost;
      this.#due(counter, counter.sentAt + SEND_MS);
    });
  }

  charge(policy: WindowPolicy, subject: string, cost: number): void {
    const counter = this.#counter(policy, subject, this.#options.clock.now());
    if (this.#shared(policy)) this.#add(counter, cost);
    else counter.known += cost;
  }

  peek(policy: WindowPolicy, subject: string): Decision {
    const now = this.#options.clock.now();
    const start = windowStart(policy, now);
    const found = this.#counters.get(policy.name)?.get(subject);
    const counter = found?.windowStart === start ? found : new Counter(policy, subject, start);
    return counter.decision(counter.used < policy.limit, now);
  }

  /** Tells the store what it does not know yet, if it listens. Nothing is to be taken any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    const tellRest = async () => {
      await this.#sending;
      if (this.#dirty.size > 0) await this.#send([...this.#dirty]);
    };
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, LAST_WORDS_MS);
    });
    await Promise.race([tellRest(), late]);
    clearTimeout(timer);
  }

  #counter(policy: WindowPolicy, subject: string, now: Instant): Counter {
    const start = windowStart(policy, now);
    let counters = this.#counters.get(policy.name);
    const found = counters?.get(subject);
    if (found?.windowStart === start) return found;
    if (!counters) {
      counters = new Map();
      this.#counters.set(policy.name, counters);
    }
    this.#makeRoom(counters, now);
    const counter = new Counter(policy, subject, start);
    counters.set(subject, counter);
    return counter;
  }

  /** Strangers choose how many counters there are: beyond the bound the oldest of the policy is forgotten. */
  #makeRoom(counters: Map<string, Counter>, now: Instant): void {
    if (performance.now() >= this.#sweepAt) {
      this.#sweepAt = performance.now() + SWEEP_MS;
      for (const all of this.#counters.values()) {
        for (const [subject, { policy, windowStart: start }] of all) {
          if (start !== windowStart(policy, now)) all.delete(subject);
        }
      }
    }
    if (counters.size < MAX_COUNTERS) return;
    for (const oldest of counters.keys().take(1)) counters.delete(oldest);
  }

  #shared(policy: WindowPolicy): boolean {
    const { store, always, processes } = this.#options;
    if (store === null) return false;
    return always === true || policy.windowSeconds > SHORT_SECONDS || processes() > 1;
  }

  #isAsked(): boolean {
    return !this.#away && !this.#stopped && this.#options.processes() > 1;
  }

  #mayDecide({ fresh, sent, pending, policy }: Counter, cost: number): boolean {
    if (this.#away || this.#stopped) return true;
    const processes = this.#options.processes();
    if (processes <= 1 || cost === 0) return fresh;
    return sent + pending + cost <= Math.floor((policy.limit * TOLERANCE) / processes);
  }

  #add(counter: Counter, points: number): void {
    counter.pending += points;
    this.#due(counter, performance.now() + SEND_MS);
  }

  /** Asks the store, where that was not done just now. */
  #refresh(counter: Counter): void {
    if (performance.now() - counter.sentAt >= RETRY_MS) this.#add(counter, 0);
  }

  /** Resolves when the store has said what there is, or does not answer. */
  #news(counter: Counter): Promise<void> {
    return new Promise((told) => {
      counter.listeners.push(told);
      this.#due(counter, counter.sentAt + SEND_MS);
    });
  }

  #due(counter: Counter, at: number): void {
    counter.dueAt = Math.min(counter.dueAt, Math.max(at, counter.sentAt + SEND_MS));
    this.#dirty.add(counter);
    if (!this.#sending) this.#schedule(counter.dueAt);
  }

  #schedule(at: number): void {
    const when = Math.max(at, this.#notBefore);
    if (this.#stopped || when >= this.#timerAt) return;
    clearTimeout(this.#timer);
    this.#timerAt = when;
    // Rounded up, as timers are early by parts of a millisecond.
    this.#timer = setTimeout(() => this.#begin(), Math.max(0, Math.ceil(when - performance.now())));
  }

  #begin(): void {
    this.#timerAt = Number.POSITIVE_INFINITY;
    const latest = performance.now() - SEND_MS;
    const ready = [...this.#dirty].filter(({ sentAt }) => sentAt <= latest);
    this.#sending = this.#send(ready).finally(() => {
      this.#sending = undefined;
      this.#notBefore = performance.now() + (this.#away ? RETRY_MS : GAP_MS);
      let next = Number.POSITIVE_INFINITY;
      for (const { dueAt } of this.#dirty) next = Math.min(next, dueAt);
      if (next < Number.POSITIVE_INFINITY) this.#schedule(next);
    });
  }

  /** Never rejects. */
  async #send(counters: readonly Counter[]): Promise<void> {
    const { store } = this.#options;
    if (store === null || counters.length === 0) return;
    const sendings = counters.map((counter) => this.#pack(counter));
    // By ticks: where this process itself is slow, the answer may be there, unread, and that is not the store's fault.
    let ticks = 0;
    const patience = setInterval(() => {
      ticks += 1;
      if (ticks === PATIENCE_TICKS) this.#goOnAlone(sendings, 'it does not answer');
    }, PATIENCE_MS / PATIENCE_TICKS);
    try {
      const ranked = sendings.some(({ waiters }) => waiters.length > 0);
      const totals = await store.add(sendings.map(addition), ranked);
      for (const [index, sending] of sendings.entries()) this.#learn(sending, totals[index] ?? 0);
      if (this.#away) this.#options.log.info({}, 'the counts of the limits are shared again');
      this.#away = false;
    } catch (error) {
      this.#goOnAlone(sendings, error);
      for (const { counter, points } of sendings) {
        counter.sent -= points;
        const current = this.#counters.get(counter.policy.name)?.get(counter.subject);
        if (current === counter) this.#add(counter, points);
      }
    } finally {
      clearInterval(patience);
    }
  }

  #pack(counter: Counter): Sending {
    const { pending, queued, waiters, listeners } = counter;
    this.#dirty.delete(counter);
    counter.sent = pending + queued;
    counter.pending = 0;
    counter.queued = 0;
    counter.waiters = [];
    counter.listeners = [];
    counter.sentAt = performance.now();
    counter.dueAt = Number.POSITIVE_INFINITY;
    return { counter, wanted: queued, points: pending + queued, waiters, listeners };
  }

  #learn(sending: Sending, total: number): void {
    const { counter, wanted, points } = sending;
    counter.known = total;
    counter.sent -= points;
    counter.fresh = true;
    this.#decide(sending, total - wanted);
  }

  /** @param used by all others and before; those who waited come after that, one by one */
  #decide(sending: Sending, used: number): void {
    const { counter, waiters } = sending;
    const now = this.#options.clock.now();
    let rank = used;
    sending.waiters = [];
    for (const { cost, decide } of waiters) {
      const allowed = rank + Math.max(cost, 1) <= counter.policy.limit;
      if (allowed) rank += cost;
      else this.#add(counter, -cost);
      decide(counter.decision(allowed, now, rank));
    }
    for (const told of sending.listeners.splice(0)) told();
  }

  /** Everybody who waits is decided on by what is known here, and nobody waits any more until the store answers. */
  #goOnAlone(sendings: readonly Sending[], reason: unknown): void {
    if (!this.#away) {
      const message = 'the counts of the limits cannot be shared: each process by itself';
      this.#options.log.warn({ err: reason }, message);
    }
    this.#away = true;
    for (const sending of sendings) {
      const { counter, wanted, points } = sending;
      this.#decide(sending, counter.known + points - wanted + counter.pending);
    }
    for (const counter of this.#dirty) {
      const { waiters, queued, listeners } = counter;
      counter.waiters = [];
      counter.listeners = [];
      counter.queued = 0;
      counter.pending += queued;
      this.#decide({ counter, wanted: queued, points: queued, waiters, listeners }, counter.used - queued);
    }
  }
}
