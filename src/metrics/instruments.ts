import type { Family, Series } from '../domain/metrics.ts';

/**
 * A counter, gauge or histogram. prom-client is not used for these, because it looks up the labels for each value: 2
 * µs, which would be 4 % of a cached chat (ADR 26).
 */
export interface Instrument {
  readonly name: string;
  /** @param isScrape true: the values go to a scraper; false: they are only stored */
  read(isScrape: boolean): Family | Promise<Family>;
}

type LabelValues = readonly string[];

abstract class Labelled<Kind> {
  readonly name: string;
  protected readonly help: string;
  readonly #labelNames: readonly string[];
  readonly #series = new Map<string, { readonly labels: string; readonly series: Kind }>();

  constructor(name: string, help: string, labelNames: readonly string[]) {
    this.name = name;
    this.help = help;
    this.#labelNames = labelNames;
  }

  /** @param values in the order of the label names; an empty value leaves its label out */
  labels(...values: LabelValues): Kind {
    const key = values.length === 1 ? (values[0] ?? '') : values.join('\0');
    let found = this.#series.get(key);
    if (!found) {
      found = { labels: formatLabels(this.#labelNames, values), series: this.create() };
      this.#series.set(key, found);
    }
    return found.series;
  }

  protected abstract create(): Kind;

  /** The values of all series. */
  protected all(values: (series: Kind) => readonly number[]): Series[] {
    return [...this.#series.values()].map(({ labels, series }) => [labels, values(series)]);
  }
}

class Counted {
  value = 0;

  add(count = 1): void {
    this.value += count;
  }
}

export class Counter extends Labelled<Counted> implements Instrument {
  constructor(name: string, help: string, labelNames: readonly string[] = []) {
    super(name, help, labelNames);
    if (labelNames.length === 0) this.labels();
  }

  /** For a counter without labels. */
  add(count = 1): void {
    this.labels().add(count);
  }

  read(): Family {
    const { name, help } = this;
    return { name, help, type: 'counter', series: this.all(({ value }) => [value]) };
  }

  protected create(): Counted {
    return new Counted();
  }
}

export class Distribution {
  readonly bounds: readonly number[];
  /** Counts per bucket, not cumulative. The last bucket is above all bounds. */
  readonly counts: Float64Array;
  sum = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds, counts } = this;
    let index = 0;
    while (index < bounds.length && value > (bounds[index] ?? 0)) index += 1;
    counts[index] = (counts[index] ?? 0) + 1;
    this.sum += value;
  }
}

export class Histogram extends Labelled<Distribution> implements Instrument {
  readonly #bounds: readonly number[];

  constructor(name: string, help: string, bounds: readonly number[], labelNames: readonly string[] = []) {
    super(name, help, labelNames);
    this.#bounds = bounds;
    if (labelNames.length === 0) this.labels();
  }

  read(): Family {
    const { name, help } = this;
    const series = this.all(({ counts, sum }) => [...counts, sum]);
    return { name, help, type: 'histogram', bounds: this.#bounds, series };
  }

  protected create(): Distribution {
    return new Distribution(this.#bounds);
  }
}

/** The values by their label values. */
export type Readings = Iterable<readonly [labels: LabelValues, value: number]>;

/** Its values are read by a function at each {@link Gauge.read}. */
export class Gauge implements Instrument {
  readonly name: string;
  readonly #help: string;
  readonly #labelNames: readonly string[];
  readonly #read: (isScrape: boolean) => Readings | Promise<Readings>;

  constructor(
    name: string,
    help: string,
    read: (isScrape: boolean) => Readings | Promise<Readings>,
    labelNames: readonly string[] = [],
  ) {
    this.name = name;
    this.#help = help;
    this.#read = read;
    this.#labelNames = labelNames;
  }

  async read(isScrape: boolean): Promise<Family> {
    const readings = [...(await this.#read(isScrape))];
    const series = readings.map(
      ([labels, value]): Series => [formatLabels(this.#labelNames, labels), [value]],
    );
    return { name: this.name, help: this.#help, type: 'gauge', series };
  }
}

/** The labels as text. Labels without a value are left out. */
export function formatLabels(names: readonly string[], values: LabelValues): string {
  return names
    .flatMap((name, index) => (values[index] ? `${name}="${escapeValue(values[index])}"` : []))
    .join(',');
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '"': '\\"' };

function escapeValue(value: string): string {
  return value.replace(/[\\\n"]/g, (character) => ESCAPES[character] ?? character);
}
