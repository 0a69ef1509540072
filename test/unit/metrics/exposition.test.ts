import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { addTotals, mergeWorkers } from '../../../src/metrics/exposition.ts';
import { Counter, Gauge, Histogram } from '../../../src/metrics/instruments.ts';

const merged = (...args: Parameters<typeof mergeWorkers>) => [...mergeWorkers(...args)].join('');

describe('instruments', () => {
  it('write counters with their labels escaped, and leave empty labels out', () => {
    const counter = new Counter('asked_total', 'Questions', ['model', 'error']);
    counter.labels('a"b\\c\nd', '').add(2);
    counter.labels('gpt', 'busy').add();
    assert.equal(
      counter.text(),
      '# HELP asked_total Questions\n# TYPE asked_total counter\n' +
        'asked_total{model="a\\"b\\\\c\\nd"} 2\nasked_total{model="gpt",error="busy"} 1\n',
    );
  });

  it('write counters without labels from the start', () => {
    assert.match(new Counter('a_total', 'A').text(), /^a_total 0$/m);
  });

  it('count a value in the bucket of its bound and in all above it', () => {
    const histogram = new Histogram('wait_seconds', 'Waits', [0.1, 1]);
    for (const value of [0.05, 0.1, 0.5, 7]) histogram.labels().observe(value);
    assert.deepEqual(histogram.text().trimEnd().split('\n').slice(2), [
      'wait_seconds_bucket{le="0.1"} 2',
      'wait_seconds_bucket{le="1"} 3',
      'wait_seconds_bucket{le="+Inf"} 4',
      'wait_seconds_sum 7.65',
      'wait_seconds_count 4',
    ]);
  });

  it('read gauges when they are written', async () => {
    let open = 1;
    const gauge = new Gauge('open', 'Open', () => [[['a'], open]], ['kind']);
    open = 3;
    assert.match(await gauge.text(), /^open\{kind="a"\} 3$/m);
  });
});

const A =
  '# HELP n_total N\n# TYPE n_total counter\nn_total 2\nn_total{x="{ }"} 1\n# HELP g G\n# TYPE g gauge\ng 5\n';
const B =
  '# HELP n_total N\n# TYPE n_total counter\nn_total 40\n# HELP only_b B\n# TYPE only_b gauge\nonly_b 1\n';

describe('metrics of several workers', () => {
  it('stand together by family, each with the label of its worker', () => {
    const workers = [
      { label: '0', text: A },
      { label: '1', text: B },
    ];
    assert.equal(
      merged(workers, 'prometheus'),
      '# HELP n_total N\n# TYPE n_total counter\n' +
        'n_total{worker="0"} 2\nn_total{worker="0",x="{ }"} 1\nn_total{worker="1"} 40\n' +
        '# HELP g G\n# TYPE g gauge\ng{worker="0"} 5\n# HELP only_b B\n# TYPE only_b gauge\nonly_b{worker="1"} 1\n',
    );
  });

  it('name counters as OpenMetrics asks, and end with its mark', () => {
    const text = merged([{ label: '0', text: A }], 'openmetrics');
    assert.match(text, /^# HELP n N\n# TYPE n counter\nn_total\{worker="0"\} 2\n/);
    assert.match(text, /# TYPE g gauge\ng\{worker="0"\} 5\n# EOF\n$/);
  });

  it('are added up for counters and histograms alone', () => {
    const total = addTotals(addTotals('', A), B);
    assert.equal(total, '# HELP n_total N\n# TYPE n_total counter\nn_total 42\nn_total{x="{ }"} 1\n');
  });
});
