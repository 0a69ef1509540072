import { type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose_gc');
const collectGarbage: () => void = runInNewContext('gc');

export interface Ticks {
  /** Turns of the event loop. */
  readonly count: number;
  /**
   * CPU time of the longest turn, in milliseconds. Does not contain the time of other programs, nor that of garbage
   * collection, which depends on what else the process has in memory.
   */
  readonly longest: number;
  readonly total: number;
}

interface Tick {
  /** `performance.now()`, in milliseconds. */
  readonly start: number;
  readonly end: number;
  readonly cpu: number;
}

/** Shorter turns are not recorded, because work that a test measures has longer ones. */
const SHORT_MS = 1;

/** Measures the turns of this process's event loop while `work` runs. Collects earlier garbage first. */
export async function ticksDuring(work: () => Promise<unknown>): Promise<Ticks> {
  collectGarbage();
  const collections: PerformanceEntry[] = [];
  const observer = new PerformanceObserver((list) => collections.push(...list.getEntries()));
  observer.observe({ entryTypes: ['gc'] });
  let running = true;
  const watched = (async () => {
    const ticks: Tick[] = [];
    const begun = cpuMs();
    let count = 0;
    for (let cpu = begun, start = performance.now(); running; count++) {
      await setImmediate();
      const now = cpuMs();
      const end = performance.now();
      if (now - cpu > SHORT_MS) ticks.push({ start, end, cpu: now - cpu });
      cpu = now;
      start = end;
    }
    return { count, ticks, total: cpuMs() - begun };
  })();
  try {
    await work();
  } finally {
    running = false;
  }
  const { count, ticks, total } = await watched;
  // The entries of a turn are reported after it.
  await setImmediate();
  collections.push(...observer.takeRecords());
  observer.disconnect();
  const collecting = ({ start, end }: Tick) =>
    collections
      .filter(({ startTime }) => startTime >= start && startTime < end)
      .reduce((sum, { duration }) => sum + duration, 0);
  const longest = Math.max(0, ...ticks.map((tick) => tick.cpu - collecting(tick)));
  return { count, longest, total };
}

/** CPU time of this thread, in milliseconds. */
export function cpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}
