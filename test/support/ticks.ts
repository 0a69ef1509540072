import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose_gc');
const collectGarbage: () => void = runInNewContext('gc');

export interface Ticks {
  /** Turns of the event loop. */
  readonly count: number;
  /** CPU time of the longest turn, milliseconds. Other programs on the machine do not count. */
  readonly longest: number;
  readonly total: number;
}

/** The turns of this process's event loop while `work` runs. What the test left behind before is collected first. */
export async function ticksDuring(work: () => Promise<unknown>): Promise<Ticks> {
  collectGarbage();
  let running = true;
  const watched = (async () => {
    const start = cpuMs();
    let count = 0;
    let longest = 0;
    for (let at = start; running; count++) {
      await setImmediate();
      const now = cpuMs();
      longest = Math.max(longest, now - at);
      at = now;
    }
    return { count, longest, total: cpuMs() - start };
  })();
  try {
    await work();
  } finally {
    running = false;
  }
  return watched;
}

/** Of this thread. */
function cpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}
