import type { Permit, PermitPool, Policy } from '../domain/access/limits.ts';

/** Limits what a subject has open at the same time. Each process grants its share of the limit, rounded up. */
export class ConcurrencyLimiter implements PermitPool {
  readonly #open = new Map<string, number>();
  readonly #processes: () => number;

  /** @param processes how many processes share the limit, this one included; may change */
  constructor(processes: () => number) {
    this.#processes = processes;
  }

  acquire(policy: Policy, subject: string): Permit {
    const name = `${policy.name}\n${subject}`;
    const share = Math.ceil(policy.limit / this.#processes());
    const open = this.#open.get(name) ?? 0;
    if (open >= share) return { policy, resetSeconds: null, allowed: false, remaining: 0, release() {} };
    this.#open.set(name, open + 1);
    let isHeld = true;
    const release = () => {
      if (!isHeld) return;
      isHeld = false;
      const others = (this.#open.get(name) ?? 1) - 1;
      if (others > 0) this.#open.set(name, others);
      else this.#open.delete(name);
    };
    return { policy, resetSeconds: null, allowed: true, remaining: share - open - 1, release };
  }

  /** Subjects that have something open; for tests. */
  get size(): number {
    return this.#open.size;
  }
}
