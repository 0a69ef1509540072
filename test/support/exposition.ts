/** Reads the response of /metrics, and checks it against Prometheus' text format and with promtool. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { provideProgram } from './debian.ts';

const SAMPLE = /^([a-z_][\w:]*)(?:\{(.*)\})? (-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|\+Inf|NaN|Nan)$/;
const LABEL = /([a-z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/gy;

export interface Series {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export class Exposition {
  readonly series: readonly Series[];
  /** The type of each metric family. */
  readonly types: ReadonlyMap<string, string>;

  constructor(text: string) {
    const types = new Map<string, string>();
    const series: Series[] = [];
    const seen = new Set<string>();
    let family = '';
    for (const line of text.split('\n')) {
      if (line === '' || line === '# EOF' || line.startsWith('# HELP ')) continue;
      if (line.startsWith('# TYPE ')) {
        const [, , name = '', type = ''] = line.split(' ');
        assert(!types.has(name), `${name} stands twice`);
        types.set(name, type);
        family = name;
        continue;
      }
      const match = SAMPLE.exec(line);
      assert(match, `no sample: ${line}`);
      const [, name = '', labels = '', value = ''] = match;
      assert(name.startsWith(family), `${name} stands under ${family}`);
      const key = line.slice(0, line.lastIndexOf(' '));
      assert(!seen.has(key), `twice: ${key}`);
      seen.add(key);
      series.push({ name, labels: labelsOf(labels), value: Number(value.replace('Inf', 'Infinity')) });
    }
    this.series = series;
    this.types = types;
  }

  /** The sum of the series with that name and those labels. */
  sum(name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.find(name, labels).reduce((sum, { value }) => sum + value, 0);
  }

  find(name: string, labels: Readonly<Record<string, string>> = {}): Series[] {
    return this.series.filter(
      (one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value),
    );
  }

  /** The turns of each worker. */
  turns(): Record<string, number> {
    const turns: Record<string, number> = {};
    for (const { labels, value } of this.find('chat_cache_requests_total')) {
      turns[labels.worker ?? ''] = (turns[labels.worker ?? ''] ?? 0) + value;
    }
    return turns;
  }

  /** Counters and the counters of histograms, summed up without the label `worker`. */
  totals(): Map<string, number> {
    const totals = new Map<string, number>();
    for (const { name, labels, value } of this.series) {
      const family = name.replace(/_(bucket|sum|count)$/, '');
      const type = this.types.get(name) ?? this.types.get(family);
      if (type !== 'counter' && type !== 'histogram') continue;
      const { worker: _, ...rest } = labels;
      const key = `${name}${JSON.stringify(rest)}`;
      totals.set(key, (totals.get(key) ?? 0) + value);
    }
    return totals;
  }
}

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  let end = 0;
  for (const match of text.matchAll(LABEL)) {
    const [all, name = '', value = ''] = match;
    labels[name] = value.replace(/\\(.)/g, (_all, character: string) =>
      character === 'n' ? '\n' : character,
    );
    end = match.index + all.length;
  }
  assert.equal(end, text.length, `no labels: ${text}`);
  return labels;
}

/** Fails when `promtool check metrics` reports a problem. */
export function checkWithPromtool(text: string): void {
  const promtool = provideProgram('promtool', 'prometheus');
  if (promtool === undefined) return;
  const { status, stdout, stderr } = spawnSync(promtool, ['check', 'metrics'], {
    input: text,
    encoding: 'utf8',
  });
  assert.deepEqual([status, stdout, stderr], [0, '', '']);
}
