import type { Permit, PermitPool, Policy } from '../domain/access/limits.ts';

/** Limits what a subject has open at the same time. Each process grants its share of the limit, rounded up. */
export class ConcurrencyLimiter implements PermitPool {
  readonly #open = new Map<string, Set<Permit>>();
  readonly #processes: () => number;

  /** @param processes how many processes share the limit, this one included; may change */
  constructor(processes: () => number) {
    this.#processes = processes;
  }

  acquire(policy: Policy, subject: string): Permit {
    const name = `${policy.name}\n${subject}`;
    const permits = this.#open.get(name) ?? new Set();
    const remaining = Math.ceil(policy.limit / this.#processes()) - permits.size - 1;
    if (remaining < 0) return { policy, resetSeconds: null, allowed: false, remaining: 0, release() {} };
    const release = () => {
      if (permits.delete(permit) && permits.size === 0) this.#open.delete(name);
    };
    const permit = { policy, resetSeconds: null, allowed: true, remaining, release };
    this.#open.set(name, permits.add(permit));
    return permit;
  }

  /** Subjects that have something open; for tests. */
  get size(): number {
    return this.#open.size;
  }
}
