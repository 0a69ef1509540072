import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Family } from '../../../src/domain/metrics.ts';
import { addTotals, format, type TextFormat } from '../../../src/metrics/exposition.ts';
import { Counter, Gauge, Histogram, type Instrument } from '../../../src/metrics/instruments.ts';
import { familyOf, ProcessMetrics } from '../../../src/metrics/process-metrics.ts';

const text = (families: readonly Family[], as: TextFormat = 'prometheus') =>
  [...format([{ worker: '0', families }], as)].join('');
const textOf = async (instrument: Instrument) => text([await instrument.read(true)]);

describe('instruments', () => {
  it('write counters with their labels escaped, and leave empty labels out', async () => {
    const counter = new Counter('asked_total', 'Questions', ['model', 'error']);
    counter.labels('a"b\\c\nd', '').add(2);
    counter.labels('gpt', 'busy').add();
    assert.equal(
      await textOf(counter),
      '# HELP asked_total Questions\n# TYPE asked_total counter\n' +
        'asked_total{worker="0",model="a\\"b\\\\c\\nd"} 2\nasked_total{worker="0",model="gpt",error="busy"} 1\n',
    );
  });

  it('write counters without labels from the start', async () => {
    assert.match(await textOf(new Counter('a_total', 'A')), /^a_total\{worker="0"\} 0$/m);
  });

  it('count a value in the bucket of its bound and in all above it', async () => {
    const histogram = new Histogram('wait_seconds', 'Waits', [0.1, 1]);
    for (const value of [0.05, 0.1, 0.5, 7]) histogram.labels().observe(value);
    assert.deepEqual((await textOf(histogram)).trimEnd().split('\n').slice(2), [
      'wait_seconds_bucket{worker="0",le="0.1"} 2',
      'wait_seconds_bucket{worker="0",le="1"} 3',
      'wait_seconds_bucket{worker="0",le="+Inf"} 4',
      'wait_seconds_sum{worker="0"} 7.65',
      'wait_seconds_count{worker="0"} 4',
    ]);
  });

  it('read gauges when they are written', async () => {
    let open = 1;
    const gauge = new Gauge('open', 'Open', () => [[['a'], open]], ['kind']);
    open = 3;
    assert.match(await textOf(gauge), /^open\{worker="0",kind="a"\} 3$/m);
  });
});

describe('metrics of the process', () => {
  it('are those that prom-client writes, but for lists of all open sockets', async () => {
    const { default: promClient } = await import('prom-client');
    const registry = new promClient.Registry();
    promClient.collectDefaultMetrics({ register: registry });
    const own = new ProcessMetrics();
    assert.deepEqual(await own.read(false), []);
    await own.read(true);
    const theirs = (await registry.metrics()).split('\n').filter((line) => line.startsWith('# '));
    const ours = text(await own.read(true))
      .split('\n')
      .filter((line) => line.startsWith('# '));
    const leftOut = /^# (?:HELP|TYPE) nodejs_active_(?:handles|requests|\w+_total) /;
    assert.deepEqual(ours.sort(), theirs.filter((line) => !leftOut.test(line)).sort());
  });

  it('are written as prom-client writes them', async () => {
    const { default: promClient } = await import('prom-client');
    const registers = [new promClient.Registry()];
    const waits = new promClient.Histogram({
      name: 'w',
      help: 'W',
      buckets: [1, 2],
      labelNames: ['kind'],
      registers,
    });
    for (const value of [0.5, 1.5, 1.5, 3]) waits.observe({ kind: 'a"b' }, value);
    waits.observe({ kind: 'c' }, 9);
    const spaces = new promClient.Gauge({ name: 's', help: 'S', labelNames: ['a', 'b'], registers });
    spaces.set({ a: 1, b: 'x' }, 0.25);
    const calls = new promClient.Counter({ name: 'c_total', help: 'C', registers });
    calls.inc(3);
    const families = await Promise.all([waits, spaces, calls].map(familyOf));
    const sorted = (lines: string) =>
      lines
        .replaceAll(/\{(le="[^"]*"),(.*)\}/g, '{$2,$1}')
        .split('\n')
        .filter((line) => line !== '')
        .sort();
    const ours = text(families)
      .replaceAll(/worker="0",?/g, '')
      .replaceAll('{}', '');
    assert.deepEqual(sorted(ours), sorted((await registers[0]?.metrics()) ?? ''));
  });
});

const counter = (name: string, ...series: Family['series']): Family => ({
  name,
  help: 'N',
  type: 'counter',
  series,
});
const gauge = (name: string, value: number): Family => ({
  ...counter(name, ['', [value]]),
  type: 'gauge',
});
const histogram = (bounds: readonly number[], values: readonly number[]): Family => ({
  ...counter('h', ['x="1"', values]),
  type: 'histogram',
  bounds,
});

describe('metrics of several workers', () => {
  it('stand together by name', () => {
    const workers = [
      { worker: '0', families: [counter('n_total', ['', [2]], ['x="{"', [1]]), gauge('g', 5)] },
      { worker: '1-old', families: [gauge('only_here', 1), counter('n_total', ['', [40]])] },
    ];
    assert.equal(
      [...format(workers, 'prometheus')].join(''),
      '# HELP n_total N\n# TYPE n_total counter\n' +
        'n_total{worker="0"} 2\nn_total{worker="0",x="{"} 1\nn_total{worker="1-old"} 40\n' +
        '# HELP g N\n# TYPE g gauge\ng{worker="0"} 5\n' +
        '# HELP only_here N\n# TYPE only_here gauge\nonly_here{worker="1-old"} 1\n',
    );
  });

  it('name counters as OpenMetrics asks, and end with its mark', () => {
    assert.equal(
      text([counter('n_total', ['', [2]]), gauge('g', 5)], 'openmetrics'),
      '# HELP n N\n# TYPE n counter\nn_total{worker="0"} 2\n# HELP g N\n# TYPE g gauge\ng{worker="0"} 5\n# EOF\n',
    );
  });

  it('are added up for counters and histograms alone', () => {
    const first = [counter('n_total', ['', [2]], ['x="1"', [1]]), gauge('g', 5), histogram([1], [1, 2, 9.5])];
    const second = [counter('n_total', ['', [40]], ['x="2"', [7]]), histogram([1], [10, 20, 0.5])];
    assert.deepEqual(addTotals(addTotals([], first), second), [
      counter('n_total', ['', [42]], ['x="1"', [1]], ['x="2"', [7]]),
      histogram([1], [11, 22, 10]),
    ]);
  });

  it('are added up with those of a version that has other buckets, each in a bucket that holds it', () => {
    const [sum] = addTotals([histogram([1, 2, 5], [1, 10, 100, 1000, 8])], [histogram([2, 4], [1, 1, 1, 1])]);
    assert.deepEqual(sum, histogram([2, 4], [12, 1, 1101, 9]));
  });

  it('keep their buckets when they are added up with a worker that has observed nothing', async () => {
    const { default: promClient } = await import('prom-client');
    const observed = new promClient.Histogram({
      name: 'h',
      help: 'H',
      buckets: [1, 2],
      labelNames: ['kind'],
      registers: [],
    });
    const nothing = await familyOf(observed);
    observed.observe({ kind: 'minor' }, 1.5);
    const some = await familyOf(observed);
    assert.deepEqual(addTotals([some], [nothing]), [some]);
    assert.deepEqual(addTotals([nothing], [some]), [some]);
  });
});
