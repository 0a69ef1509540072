import { readdir } from 'node:fs/promises';
import { setImmediate as nextTick } from 'node:timers/promises';
import type { Gauge, Metric, Registry } from 'prom-client';
import type { Family } from '../domain/metrics.ts';
import { formatLabels } from './instruments.ts';

/**
 * Left out: gauges whose names end like those of counters, and two lists of all open sockets, which
 * `nodejs_active_resources` contains already.
 */
const LEFT_OUT = /^nodejs_active_(?:handles|requests|\w+_total)$/;

/**
 * prom-client's metrics of the process, the event loop and the garbage collector. The first scrape loads the library,
 * because loading it takes a fifth of the CPU time of a start.
 */
export class ProcessMetrics {
  #read: Promise<() => Promise<Family[]>> | undefined;

  /** @param load whether to load the library. Without it the result is empty. */
  async read(load: boolean): Promise<readonly Family[]> {
    if (load) {
      this.#read ??= open().catch((error: unknown) => {
        this.#read = undefined;
        throw error;
      });
    }
    const read = await this.#read;
    return read ? read() : [];
  }
}

async function open(): Promise<() => Promise<Family[]>> {
  // In steps, because a single import would block the event loop until everything is loaded.
  await import('@opentelemetry/api');
  await nextTick();
  const { default: promClient } = await import('prom-client');
  await nextTick();
  const registry = new promClient.Registry();
  promClient.collectDefaultMetrics({ register: registry });
  countOpenFiles(registry, promClient.Gauge);
  const names = registry.getMetricsAsArray().map(({ name }) => name);
  const metrics = names.flatMap((name) =>
    LEFT_OUT.test(name) ? [] : (registry.getSingleMetric(name) ?? []),
  );
  return async () => {
    const families: Family[] = [];
    for (const metric of metrics) {
      families.push(await familyOf(metric));
      await nextTick();
    }
    return families;
  };
}

/** Replaces prom-client's gauge, which reads the folder synchronously: milliseconds with thousands of open streams. */
function countOpenFiles(registry: Registry, PromGauge: typeof Gauge): void {
  const own = registry.getMetricsAsArray().find(({ name }) => name === 'process_open_fds');
  // Only on Linux.
  if (!own) return;
  const { name, help } = own;
  registry.removeSingleMetric(name);
  new PromGauge({
    name,
    help,
    registers: [registry],
    async collect() {
      const files = await readdir('/proc/self/fd');
      // One of them was opened by readdir itself.
      this.set(files.length - 1);
    },
  });
}

/** Converts a metric of prom-client. Its histograms have one value per bucket, which is cumulative. */
export async function familyOf(metric: Metric): Promise<Family> {
  const { name, help, type, values } = await metric.get();
  // prom-client's types declare a number, but it is a string.
  const word = String(type);
  const series = new Map<string, number[]>();
  const bounds = new Set<number>();
  for (const { value, labels, ...rest } of values) {
    const { le, ...own } = labels;
    const kind = 'metricName' in rest ? rest.metricName : name;
    // Values that are not known yet are NaN.
    if (kind === `${name}_count` || !Number.isFinite(value)) continue;
    const key = formatLabels(Object.keys(own), Object.values(own).map(String));
    const found = series.get(key) ?? [];
    series.set(key, found);
    found.push(kind === `${name}_bucket` ? value - found.reduce((sum, count) => sum + count, 0) : value);
    if (typeof le === 'number') bounds.add(le);
  }
  const family = { name, help, series: [...series] };
  if (word === 'histogram') return { ...family, type: 'histogram', bounds: [...bounds] };
  return { ...family, type: word === 'counter' ? 'counter' : 'gauge' };
}
