/** The text formats of Prometheus and OpenMetrics, for the metrics of several workers. */
import type { Family, Series } from '../domain/metrics.ts';

export type TextFormat = 'prometheus' | 'openmetrics';

export const CONTENT_TYPES: Readonly<Record<TextFormat, string>> = {
  prometheus: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
};

export interface LabelledFamilies {
  /** The value of the label `worker`. */
  readonly worker: string;
  readonly families: readonly Family[];
}

/** The lines of all workers, one series at a time. All series of one metric are together. */
export function* format(workers: readonly LabelledFamilies[], as: TextFormat): Generator<string> {
  const all = workers.flatMap(({ worker, families }) => families.map((family) => ({ worker, family })));
  for (const found of Map.groupBy(all, ({ family }) => family.name).values()) {
    const [first] = found;
    if (!first) continue;
    yield head(first.family, as);
    for (const { worker, family } of found) yield* lines(worker, family);
  }
  if (as === 'openmetrics') yield '# EOF\n';
}

/** OpenMetrics names the family of a counter without the `_total` of its samples. */
function head({ name, help, type }: Family, as: TextFormat): string {
  const family = as === 'openmetrics' && type === 'counter' ? name.replace(/_total$/, '') : name;
  return `# HELP ${family} ${help}\n# TYPE ${family} ${type}\n`;
}

function* lines(worker: string, { name, bounds, series }: Family): Generator<string> {
  const bucketEnds = bounds && [...bounds, '+Inf'].map((bound) => `,le="${bound}"} `);
  for (const [labels, values] of series) {
    const all = `{worker="${worker}"${labels && ','}${labels}`;
    if (!bucketEnds) {
      yield `${name}${all}} ${values[0]}\n`;
      continue;
    }
    const bucket = `${name}_bucket${all}`;
    let text = '';
    let count = 0;
    for (const [index, end] of bucketEnds.entries()) {
      count += values[index] ?? 0;
      text += `${bucket}${end}${count}\n`;
    }
    yield `${text}${name}_sum${all}} ${values.at(-1)}\n${name}_count${all}} ${count}\n`;
  }
}

/**
 * Adds the counters and histograms of a worker to `ended`. Gauges are left out, because they describe a running worker.
 * @param ended the sums of workers that have ended
 */
export function addTotals(ended: readonly Family[], families: readonly Family[]): Family[] {
  const sums = new Map(ended.map((family) => [family.name, family]));
  for (const family of families) {
    if (family.type === 'gauge') continue;
    const sum = sums.get(family.name);
    // A histogram of prom-client that has observed nothing does not say its buckets.
    if (sum && family.series.length === 0) continue;
    sums.set(family.name, sum ? { ...family, series: addSeries(sum, family) } : family);
  }
  return [...sums.values()];
}

function addSeries(earlier: Family, { bounds = [], series }: Family): Series[] {
  const sums = new Map(earlier.series);
  if (earlier.bounds && String(earlier.bounds) !== String(bounds)) {
    for (const [labels, values] of sums) sums.set(labels, rebucket(values, earlier.bounds, bounds));
  }
  for (const [labels, values] of series) {
    const sum = sums.get(labels);
    sums.set(labels, sum ? values.map((value, index) => value + (sum[index] ?? 0)) : values);
  }
  return [...sums];
}

/**
 * Converts values of a version with other buckets. Each count goes into the smallest bucket that contains the whole old
 * one.
 */
function rebucket(values: readonly number[], from: readonly number[], to: readonly number[]): number[] {
  const counts = new Array<number>(to.length + 1).fill(0);
  for (const [index, count] of values.slice(0, -1).entries()) {
    const at = to.findIndex((bound) => bound >= (from[index] ?? Number.POSITIVE_INFINITY));
    const bucket = at < 0 ? to.length : at;
    counts[bucket] = (counts[bucket] ?? 0) + count;
  }
  return [...counts, values.at(-1) ?? 0];
}
