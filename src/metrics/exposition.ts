/** Merges the metrics of several workers. Input and output are in the text format of Prometheus. */

interface Family {
  readonly type: string;
  readonly head: string;
  readonly samples: string[];
}

type Families = Map<string, Family>;

export interface WorkerText {
  /** The value of the label `worker`. */
  readonly label: string;
  readonly text: string;
}

export type TextFormat = 'prometheus' | 'openmetrics';

export const CONTENT_TYPES: Readonly<Record<TextFormat, string>> = {
  prometheus: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
};

/** All series, each with the label of its worker; a family's series stand together. Yields in pieces. */
export function* mergeWorkers(workers: readonly WorkerText[], format: TextFormat): Generator<string> {
  const parsed: { readonly label: string; readonly families: Families }[] = [];
  for (const { label, text } of workers) {
    parsed.push({ label, families: familiesOf(text) });
    yield '';
  }
  const names = new Set(parsed.flatMap(({ families }) => [...families.keys()]));
  for (const name of names) {
    let head = '';
    let lines = '';
    for (const { label, families } of parsed) {
      const family = families.get(name);
      if (!family) continue;
      head ||= format === 'openmetrics' ? openMetricsHead(family) : family.head;
      for (const sample of family.samples) lines += `${withWorker(sample, label)}\n`;
    }
    yield head + lines;
  }
  if (format === 'openmetrics') yield '# EOF\n';
}

/** The sums of two texts, for counters and histograms; their gauges end with their workers. */
export function addTotals(first: string, second: string): string {
  const sums = new Map<string, { readonly head: string; readonly values: Map<string, number> }>();
  for (const [name, { head, type, samples }] of [...familiesOf(first), ...familiesOf(second)]) {
    if (type !== 'counter' && type !== 'histogram') continue;
    const { values } = sums.get(name) ?? { values: new Map<string, number>() };
    sums.set(name, { head, values });
    for (const sample of samples) {
      const at = sample.lastIndexOf(' ');
      const series = sample.slice(0, at);
      values.set(series, (values.get(series) ?? 0) + Number(sample.slice(at + 1)));
    }
  }
  let text = '';
  for (const { head, values } of sums.values()) {
    text += head;
    for (const [series, value] of values) text += `${series} ${value}\n`;
  }
  return text;
}

function familiesOf(text: string): Families {
  const families: Families = new Map();
  let head = '';
  let family: Family | undefined;
  for (const line of text.split('\n')) {
    if (line.startsWith('# TYPE ')) {
      const [, , name = '', type = ''] = line.split(' ');
      family = { type, head: `${head}${line}\n`, samples: [] };
      families.set(name, family);
      head = '';
    } else if (line.startsWith('#')) head += `${line}\n`;
    else if (line !== '') family?.samples.push(line);
  }
  return families;
}

function withWorker(sample: string, label: string): string {
  const at = sample.search(/[{ ]/);
  const rest = sample[at] === '{' ? `,${sample.slice(at + 1)}` : `}${sample.slice(at)}`;
  return `${sample.slice(0, at)}{worker="${label}"${rest}`;
}

/** OpenMetrics names the family of a counter without the `_total` of its samples. */
function openMetricsHead({ type, head }: Family): string {
  return type === 'counter' ? head.replace(/^(# (?:HELP|TYPE) \S+)_total /gm, '$1 ') : head;
}
