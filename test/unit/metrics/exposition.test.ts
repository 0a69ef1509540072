import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { addTotals, mergeWorkers, withLabel } from '../../../src/metrics/exposition.ts';
import { Counter, Gauge, Histogram } from '../../../src/metrics/instruments.ts';

const merged = (...args: Parameters<typeof mergeWorkers>) => [...mergeWorkers(...args)].join('');

it('a label is replaced, whatever names of models callers choose', () => {
  const counter = new Counter('asked_total', 'Questions', ['model', 'host']);
  for (const model of ['a,worker=', '{worker=', 'worker="x"', 'b\\']) counter.labels(model, 'h').add();
  const text = counter.text('0');
  assert.equal(withLabel(text, 'ended'), text.replaceAll('{worker="0"', '{worker="ended"'));
  assert.equal(withLabel('a{le="1",worker="0",model="m"} 1\n', '1'), 'a{le="1",worker="1",model="m"} 1\n');
});

describe('instruments', () => {
  it('write counters with their labels escaped, and leave empty labels out', () => {
    const counter = new Counter('asked_total', 'Questions', ['model', 'error']);
    counter.labels('a"b\\c\nd', '').add(2);
    counter.labels('gpt', 'busy').add();
    assert.equal(
      counter.text('0'),
      '# HELP asked_total Questions\n# TYPE asked_total counter\n' +
        'asked_total{worker="0",model="a\\"b\\\\c\\nd"} 2\nasked_total{worker="0",model="gpt",error="busy"} 1\n',
    );
  });

  it('write counters without labels from the start', () => {
    assert.match(new Counter('a_total', 'A').text('0'), /^a_total\{worker="0"\} 0$/m);
  });

  it('count a value in the bucket of its bound and in all above it', () => {
    const histogram = new Histogram('wait_seconds', 'Waits', [0.1, 1]);
    for (const value of [0.05, 0.1, 0.5, 7]) histogram.labels().observe(value);
    assert.deepEqual(histogram.text('0').trimEnd().split('\n').slice(2), [
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
    assert.match(await gauge.text('0'), /^open\{worker="0",kind="a"\} 3$/m);
  });
});

const A =
  '# HELP n_total N\n# TYPE n_total counter\nn_total{worker="0"} 2\nn_total{worker="0",x="{worker=\\"0\\"}"} 1\n' +
  '# HELP g G\n# TYPE g gauge\ng{worker="0"} 5\n';
const B =
  '# HELP n_total N\n# TYPE n_total counter\nn_total{worker="1"} 40\n' +
  '# HELP only_b B\n# TYPE only_b gauge\nonly_b{kind="k",worker="1"} 1\n';

describe('metrics of several workers', () => {
  it('stand together by family', () => {
    assert.equal(
      merged([A, B], 'prometheus'),
      '# HELP n_total N\n# TYPE n_total counter\n' +
        'n_total{worker="0"} 2\nn_total{worker="0",x="{worker=\\"0\\"}"} 1\nn_total{worker="1"} 40\n' +
        '# HELP g G\n# TYPE g gauge\ng{worker="0"} 5\n' +
        '# HELP only_b B\n# TYPE only_b gauge\nonly_b{kind="k",worker="1"} 1\n',
    );
  });

  it('get other labels, wherever the label stands', () => {
    assert.deepEqual(
      [...withLabel(A + B, '3-old').matchAll(/^\w+\{.*$/gm)].map(([line]) => line),
      [
        'n_total{worker="3-old"} 2',
        'n_total{worker="3-old",x="{worker=\\"0\\"}"} 1',
        'g{worker="3-old"} 5',
        'n_total{worker="3-old"} 40',
        'only_b{kind="k",worker="3-old"} 1',
      ],
    );
  });

  it('name counters as OpenMetrics asks, and end with its mark', () => {
    const text = merged([A], 'openmetrics');
    assert.match(text, /^# HELP n N\n# TYPE n counter\nn_total\{worker="0"\} 2\n/);
    assert.match(text, /# TYPE g gauge\ng\{worker="0"\} 5\n# EOF\n$/);
  });

  it('are added up for counters and histograms alone', () => {
    assert.equal(
      addTotals(addTotals('', A), B),
      '# HELP n_total N\n# TYPE n_total counter\n' +
        'n_total{worker="ended"} 42\nn_total{worker="ended",x="{worker=\\"0\\"}"} 1\n',
    );
  });
});
