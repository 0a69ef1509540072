import { setTimeout as delay } from 'node:timers/promises';
import type { Addition, CounterStore } from '../../src/domain/limits.ts';

/** A store in memory: as slow as it is told, and away when it is told. */
export class FakeStore implements CounterStore {
  readonly counters = new Map<string, number>();
  readonly calls: { readonly at: number; readonly additions: readonly Addition[] }[] = [];
  state: 'up' | 'away' | 'frozen' = 'up';
  latency = 1;
  thaw = () => {};

  async add(additions: readonly Addition[]): Promise<number[]> {
    this.calls.push({ at: performance.now(), additions });
    await delay(this.latency);
    if (this.state === 'away') throw new Error('away');
    if (this.state === 'frozen') await new Promise<void>((resolve) => (this.thaw = resolve));
    return additions.map(({ counter, windowStart, points }) => {
      const name = `${counter} ${windowStart}`;
      const sum = (this.counters.get(name) ?? 0) + points;
      this.counters.set(name, sum);
      return sum;
    });
  }

  get total(): number {
    return [...this.counters.values()].reduce((sum, points) => sum + points, 0);
  }
}
