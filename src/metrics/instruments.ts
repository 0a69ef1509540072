/**
 * Counters, gauges and histograms in the text format of Prometheus. prom-client looks the labels up for each value,
 * which costs 2 µs and would be 4 % of a cached chat (ADR 26).
 */
export interface Instrument {
  readonly name: string;
  /**
   * Its lines, `# HELP` and `# TYPE` included.
   * @param worker the value of the label `worker`
   * @param isScrape whether the values are scraped now; else they are only stored
   */
  text(worker: string, isScrape: boolean): string | Promise<string>;
}

type LabelValues = readonly string[];

/** The values under one combination of labels. */
abstract class Series {
  /** Its lines; undefined: it has changed since they were made. Most series do not change between two scrapes. */
  lines: string | undefined;
}

abstract class Labelled<Kind extends Series> {
  readonly name: string;
  readonly #head: string;
  readonly #labelNames: readonly string[];
  readonly #series = new Map<string, { readonly labels: string; readonly series: Kind }>();

  constructor(type: string, name: string, help: string, labelNames: readonly string[]) {
    this.name = name;
    this.#head = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
    this.#labelNames = labelNames;
  }

  /** @param values in the order of the label names; an empty one counts as no label */
  labels(...values: LabelValues): Kind {
    const key = values.length === 1 ? (values[0] ?? '') : values.join('\0');
    let found = this.#series.get(key);
    if (!found) {
      found = { labels: formatLabels(this.#labelNames, values), series: this.create() };
      this.#series.set(key, found);
    }
    return found.series;
  }

  /** The label of the worker is the same in each call. */
  text(worker: string): string {
    let text = this.#head;
    for (const { labels, series } of this.#series.values()) {
      series.lines ??= this.format(`worker="${worker}"${labels}`, series);
      text += series.lines;
    }
    return text;
  }

  protected abstract create(): Kind;
  protected abstract format(labels: string, series: Kind): string;
}

export class Counted extends Series {
  value = 0;

  add(count = 1): void {
    this.value += count;
    this.lines = undefined;
  }
}

export class Counter extends Labelled<Counted> implements Instrument {
  constructor(name: string, help: string, labelNames: readonly string[] = []) {
    super('counter', name, help, labelNames);
    if (labelNames.length === 0) this.labels();
  }

  /** Of a counter without labels. */
  add(count = 1): void {
    this.labels().add(count);
  }

  protected create(): Counted {
    return new Counted();
  }

  protected format(labels: string, { value }: Counted): string {
    return `${this.name}{${labels}} ${value}\n`;
  }
}

export class Distribution extends Series {
  readonly bounds: readonly number[];
  /** The last one: above all bounds. */
  readonly counts: Float64Array;
  sum = 0;

  constructor(bounds: readonly number[]) {
    super();
    this.bounds = bounds;
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds, counts } = this;
    let index = 0;
    while (index < bounds.length && value > (bounds[index] ?? 0)) index += 1;
    counts[index] = (counts[index] ?? 0) + 1;
    this.sum += value;
    this.lines = undefined;
  }
}

export class Histogram extends Labelled<Distribution> implements Instrument {
  readonly #bounds: readonly number[];

  constructor(name: string, help: string, bounds: readonly number[], labelNames: readonly string[] = []) {
    super('histogram', name, help, labelNames);
    this.#bounds = bounds;
    if (labelNames.length === 0) this.labels();
  }

  protected create(): Distribution {
    return new Distribution(this.#bounds);
  }

  protected format(labels: string, { bounds, counts, sum }: Distribution): string {
    const bucket = `${this.name}_bucket{${labels},le="`;
    let lines = '';
    let total = 0;
    for (const [index, bound] of bounds.entries()) {
      total += counts[index] ?? 0;
      lines += `${bucket}${bound}"} ${total}\n`;
    }
    total += counts[bounds.length] ?? 0;
    lines += `${bucket}+Inf"} ${total}\n`;
    return `${lines}${this.name}_sum{${labels}} ${sum}\n${this.name}_count{${labels}} ${total}\n`;
  }
}

/** The values by their label values. */
export type Readings = Iterable<readonly [labels: LabelValues, value: number]>;

/** Read when it is scraped. */
export class Gauge implements Instrument {
  readonly name: string;
  readonly #head: string;
  readonly #labelNames: readonly string[];
  readonly #read: (isScrape: boolean) => Readings | Promise<Readings>;

  constructor(
    name: string,
    help: string,
    read: (isScrape: boolean) => Readings | Promise<Readings>,
    labelNames: readonly string[] = [],
  ) {
    this.name = name;
    this.#head = `# HELP ${name} ${help}\n# TYPE ${name} gauge\n`;
    this.#labelNames = labelNames;
    this.#read = read;
  }

  async text(worker: string, isScrape = true): Promise<string> {
    let text = this.#head;
    for (const [labels, value] of await this.#read(isScrape)) {
      text += `${this.name}{worker="${worker}"${formatLabels(this.#labelNames, labels)}} ${value}\n`;
    }
    return text;
  }
}

/** Each after a comma, for behind the label `worker`. */
function formatLabels(names: readonly string[], values: LabelValues): string {
  return names
    .flatMap((name, index) => (values[index] ? `,${name}="${escapeValue(values[index])}"` : []))
    .join('');
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '"': '\\"' };

function escapeValue(value: string): string {
  return value.replace(/[\\\n"]/g, (character) => ESCAPES[character] ?? character);
}
