/** Merges the metrics of several workers. Input and output are in the text format of Prometheus. */

interface Family {
  readonly type: string;
  readonly head: string;
  readonly samples: string;
}

export type TextFormat = 'prometheus' | 'openmetrics';

export const CONTENT_TYPES: Readonly<Record<TextFormat, string>> = {
  prometheus: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
};

const ENDED = 'ended';

/** Skips whole labels, so that the values of others are not searched: callers choose some of them. */
const WORKER = /^(\w+\{(?:\w+="(?:[^"\\\n]|\\.)*",)*?)worker="[^"]*"/gm;

/** The families of all workers; series of one family stand together. Yields in pieces. */
export function* mergeWorkers(all: readonly string[], format: TextFormat): Generator<string> {
  const texts = all.filter((text) => text !== '');
  if (texts.length === 1 && format === 'prometheus') return yield* texts;
  const parsed: ReadonlyMap<string, Family>[] = [];
  for (const text of texts) {
    parsed.push(familiesOf(text));
    yield '';
  }
  for (const name of new Set(parsed.flatMap((families) => [...families.keys()]))) {
    const found = parsed.flatMap((families) => families.get(name) ?? []);
    const [first] = found;
    if (!first) continue;
    yield format === 'openmetrics' ? openMetricsHead(first) : first.head;
    for (const { samples } of found) yield samples;
  }
  if (format === 'openmetrics') yield '# EOF\n';
}

/** The text with another value of the label `worker`. */
export function withLabel(text: string, worker: string): string {
  return text.replace(WORKER, (_match, start: string) => `${start}worker="${worker}"`);
}

/**
 * Adds up counters and histograms, under the label of ended workers. Gauges end with their workers.
 * @param ended earlier sums
 */
export function addTotals(ended: string, text: string): string {
  const sums = new Map<string, { readonly head: string; readonly values: Map<string, number> }>();
  const relabelled = withLabel(text, ENDED);
  for (const [name, { head, type, samples }] of [...familiesOf(ended), ...familiesOf(relabelled)]) {
    if (type !== 'counter' && type !== 'histogram') continue;
    const { values } = sums.get(name) ?? { values: new Map<string, number>() };
    sums.set(name, { head, values });
    for (const sample of samples.split('\n')) {
      const at = sample.lastIndexOf(' ');
      if (at < 0) continue;
      const series = sample.slice(0, at);
      values.set(series, (values.get(series) ?? 0) + Number(sample.slice(at + 1)));
    }
  }
  let total = '';
  for (const { head, values } of sums.values()) {
    total += head;
    for (const [series, value] of values) total += `${series} ${value}\n`;
  }
  return total;
}

/** Each begins with a line `# HELP` and one `# TYPE`. */
function familiesOf(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  let begin = text.startsWith('# HELP ') ? 0 : -1;
  while (begin >= 0) {
    const next = text.indexOf('\n# HELP ', begin);
    const end = next < 0 ? text.length : next + 1;
    const typeAt = text.indexOf('\n# TYPE ', begin) + 1;
    const samplesAt = text.indexOf('\n', typeAt) + 1;
    const [, , name = '', type = ''] = text.slice(typeAt, samplesAt - 1).split(' ');
    families.set(name, { type, head: text.slice(begin, samplesAt), samples: text.slice(samplesAt, end) });
    begin = next < 0 ? -1 : end;
  }
  return families;
}

/** OpenMetrics names the family of a counter without the `_total` of its samples. */
function openMetricsHead({ type, head }: Family): string {
  return type === 'counter' ? head.replace(/^(# (?:HELP|TYPE) \S+)_total /gm, '$1 ') : head;
}
