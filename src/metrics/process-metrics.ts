import { setImmediate as nextTick } from 'node:timers/promises';

/**
 * prom-client's metrics of the process, the event loop and the garbage collector, as text. The library is loaded with
 * the first scrape: it takes a fifth of the CPU time of a start.
 */
export class ProcessMetrics {
  #read: Promise<() => Promise<string>> | undefined;

  /**
   * @param worker the value of the label `worker`
   * @param load whether to load the library; until then the text is empty
   */
  async text(worker: string, load: boolean): Promise<string> {
    if (load) {
      this.#read ??= open(worker).catch((error: unknown) => {
        this.#read = undefined;
        throw error;
      });
    }
    const read = await this.#read;
    return read ? read() : '';
  }
}

async function open(worker: string): Promise<() => Promise<string>> {
  // In steps, because one import blocks the event loop for all of it.
  await import('@opentelemetry/api');
  await nextTick();
  const { default: promClient } = await import('prom-client');
  await nextTick();
  const registry = new promClient.Registry();
  promClient.collectDefaultMetrics({ register: registry, labels: { worker } });
  const names = registry.getMetricsAsArray().map(({ name }) => name);
  // Gauges with the suffix of a counter. They also list every open socket at each scrape.
  for (const name of names.filter(isMisnamed)) registry.removeSingleMetric(name);
  return async () => {
    const texts: string[] = [];
    for (const name of names) {
      if (isMisnamed(name)) continue;
      texts.push(`${await registry.getSingleMetricAsString(name)}\n`);
      await nextTick();
    }
    return texts.join('');
  };
}

function isMisnamed(name: string): boolean {
  return /^nodejs_active_\w+_total$/.test(name);
}
