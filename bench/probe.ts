/** Loaded into a measured process with `--import`: reports CPU time and memory over IPC. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

const delay = monitorEventLoopDelay({ resolution: 5 });
const RESOLUTION_MS = 5;
let peakRss = 0;
let watching: NodeJS.Timeout | undefined;

process.on('message', (message) => {
  if (message === 'watch') {
    delay.reset();
    delay.enable();
    peakRss = process.memoryUsage.rss();
    watching = setInterval(() => {
      peakRss = Math.max(peakRss, process.memoryUsage.rss());
    }, 10);
    process.send?.({ watching: true });
  }
  if (message === 'watched') {
    clearInterval(watching);
    delay.disable();
    // The histogram holds the interval between samples, which equals the resolution when the loop is idle.
    const excess = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - RESOLUTION_MS);
    const loop = { loopP99Ms: excess(delay.percentile(99)), loopMaxMs: excess(delay.max) };
    process.send?.({ watched: { peakRss, ...loop } });
  }
  if (message !== 'probe' && message !== 'probe after gc') return;
  if (message === 'probe after gc') collect();
  const { user, system } = process.cpuUsage();
  const { rss, heapUsed, external } = process.memoryUsage();
  process.send?.({ probe: { cpuMs: (user + system) / 1000, rss, heap: heapUsed + external } });
});
// The channel alone must not keep the process alive.
process.channel?.unref();
