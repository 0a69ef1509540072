import { setTimeout as delay } from 'node:timers/promises';
import type { Addition, CounterStore } from '../../src/domain/access/limits.ts';

/** A store in memory that can be slow, down or frozen. */
export class FakeStore implements CounterStore {
  readonly counters = new Map<string, number>();
  readonly additions: Addition[] = [];
  state: 'up' | 'down' | 'frozen' = 'up';
  latency = 1;
  thaw = () => {};

  async add(addition: Addition): Promise<number> {
    this.additions.push(addition);
    await delay(this.latency);
    if (this.state === 'down') throw new Error('down');
    if (this.state === 'frozen') {
      const before = this.thaw;
      await new Promise<void>((resolve) => {
        this.thaw = () => {
          before();
          resolve();
        };
      });
    }
    const total = (this.counters.get(addition.id) ?? 0) + addition.points;
    this.counters.set(addition.id, total);
    return total;
  }

  get total(): number {
    return [...this.counters.values()].reduce((sum, points) => sum + points, 0);
  }
}
