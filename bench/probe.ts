/** Loaded into a measured process (`--import`): tells its CPU time and memory when asked over IPC. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

process.on('message', (message) => {
  if (message !== 'probe' && message !== 'probe after gc') return;
  if (message === 'probe after gc') collect();
  const { user, system } = process.cpuUsage();
  const { rss, heapUsed, external } = process.memoryUsage();
  process.send?.({ probe: { cpuMs: (user + system) / 1000, rss, heap: heapUsed + external } });
});
// The channel alone must not keep the process alive.
process.channel?.unref();
