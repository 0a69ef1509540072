import type { Instant } from '../domain/conversation.ts';
import type { Decision, Permit, PermitPool, Policy, RateLimiter, WindowPolicy } from '../domain/limits.ts';
import type { Clock } from '../domain/runtime.ts';
import { windowStart } from './counter.ts';

/** So long before it counts, a window begins to be filled; half its length. Clocks may be apart by half of that. */
const HALF_SECONDS = 15;
/** How often new windows are looked for. */
const TELL_MS = 5000;

type OffsetPolicy = WindowPolicy & { readonly offsetSeconds: number };

/** What processes need to count what is open on all of them. */
export interface GaugeSharing {
  readonly limiter: RateLimiter;
  /** How many processes share the limiter's store, this one included. */
  readonly processes: () => number;
  readonly clock: Clock;
}

/** What one subject has open here. */
interface Entry {
  readonly policy: Policy;
  readonly subject: string;
  open: number;
  /** Those on whom the store decides at this moment. */
  asking: number;
  /** By offset: how much of it the limiter was told, in which window. */
  readonly told: Map<number, { start: Instant; count: number }>;
}

/**
 * How much is open at once: alone counted here and exact, with others by counters of the limiter.
 *
 * Such a counter must outlive its processes, but not for ever: what a killed one had open is to be free again. So
 * there are two for each subject, with windows that overlap by half. Every process tells both what it has open and
 * asks both for what it wants to open, and the older one decides: in the half window before that everybody has told it
 * all. What a killed process had open is gone from both after one window.
 */
export class ConcurrencyLimiter implements PermitPool {
  readonly #entries = new Map<string, Entry>();
  readonly #sharing: GaugeSharing | null;
  readonly #timer: NodeJS.Timeout | undefined;

  /** @param sharing null: this process is alone */
  constructor(sharing: GaugeSharing | null) {
    this.#sharing = sharing;
    if (sharing) this.#timer = setInterval(() => this.tell(), TELL_MS).unref();
  }

  acquire(policy: Policy, subject: string): Permit | Promise<Permit> {
    const entry = this.#entry(policy, subject);
    if (entry.open + entry.asking >= policy.limit) return refused(policy);
    const sharing = this.#shared();
    if (!sharing) return this.#hold(entry);
    this.#tell(entry);
    const { clock, limiter } = sharing;
    const now = clock.now();
    const [even, odd] = countersOf(policy);
    const [older, newer] = windowStart(even, now) < windowStart(odd, now) ? [even, odd] : [odd, even];
    const ends = windowStart(older, now) + older.windowSeconds * 1000;
    // In both and in one sending, so that nothing is missing from the newer one when it is its turn to decide.
    const asked = [limiter.take(older, subject), limiter.take(newer, subject)] as const;
    const settle = ([byOlder, byNewer]: readonly [Decision, Decision]): Permit => {
      entry.asking -= 1;
      for (const [counter, { allowed }] of [
        [older, byOlder],
        [newer, byNewer],
      ] as const) {
        const told = entry.told.get(counter.offsetSeconds);
        if (allowed && told?.start === windowStart(counter, now)) told.count += 1;
      }
      // Those who asked since the older one ended are not in it.
      const { allowed, remaining } = clock.now() < ends ? byOlder : byNewer;
      if (allowed) return this.#hold(entry, remaining);
      this.#tell(entry);
      this.#forget(entry);
      return refused(policy);
    };
    const [byOlder, byNewer] = asked;
    if (byOlder instanceof Promise || byNewer instanceof Promise) return Promise.all(asked).then(settle);
    return settle([byOlder, byNewer]);
  }

  /** Tells the others of all that is open here, as far as they do not know. By itself, it does so every few seconds. */
  tell(): void {
    for (const entry of this.#entries.values()) this.#tell(entry);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Subjects that have something open; for tests. */
  get size(): number {
    return this.#entries.size;
  }

  #shared(): GaugeSharing | undefined {
    return this.#sharing && this.#sharing.processes() > 1 ? this.#sharing : undefined;
  }

  #entry(policy: Policy, subject: string): Entry {
    const name = nameOf({ policy, subject });
    const known = this.#entries.get(name);
    if (known) return known;
    const entry = { policy, subject, open: 0, asking: 0, told: new Map() };
    this.#entries.set(name, entry);
    return entry;
  }

  #hold(entry: Entry, remaining = Number.POSITIVE_INFINITY): Permit {
    const { policy } = entry;
    entry.open += 1;
    this.#tell(entry);
    let held = true;
    const release = () => {
      if (!held) return;
      held = false;
      entry.open -= 1;
      this.#tell(entry);
      this.#forget(entry);
    };
    const left = Math.max(0, Math.min(remaining, policy.limit - entry.open));
    return { policy, resetSeconds: null, allowed: true, remaining: left, release };
  }

  #forget(entry: Entry): void {
    if (entry.open + entry.asking === 0) this.#entries.delete(nameOf(entry));
  }

  #tell(entry: Entry): void {
    const sharing = this.#shared();
    if (!sharing) return;
    const now = sharing.clock.now();
    for (const counter of countersOf(entry.policy)) {
      const start = windowStart(counter, now);
      let told = entry.told.get(counter.offsetSeconds);
      if (told?.start !== start) {
        told = { start, count: 0 };
        entry.told.set(counter.offsetSeconds, told);
      }
      const news = entry.open - told.count;
      if (news !== 0) sharing.limiter.charge(counter, entry.subject, news);
      told.count = entry.open;
    }
  }
}

function countersOf(policy: Policy): [OffsetPolicy, OffsetPolicy] {
  const at = (offsetSeconds: number): OffsetPolicy => ({
    ...policy,
    name: `${policy.name} ${offsetSeconds}`,
    windowSeconds: 2 * HALF_SECONDS,
    offsetSeconds,
    falls: true,
  });
  return [at(0), at(HALF_SECONDS)];
}

function nameOf({ policy, subject }: Pick<Entry, 'policy' | 'subject'>): string {
  return `${policy.name}\n${subject}`;
}

function refused(policy: Policy): Permit {
  return { policy, resetSeconds: null, allowed: false, remaining: 0, release() {} };
}
