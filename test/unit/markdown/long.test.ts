import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createTextFormat } from '../../../src/markdown/index.ts';
import { MAX_HELD } from '../../../src/markdown/inline/inline.ts';
import { cpuMs } from '../../support/ticks.ts';

const format = createTextFormat();
const LENGTH = 4 * MAX_HELD;
const SLOW_MS = 50;

const filled = (start: string, unit: string, end = '') => start + unit.repeat(LENGTH / unit.length) + end;

/** Text whose meaning depends on what comes much later, or never. */
const INPUTS: Readonly<Record<string, string>> = {
  'an open emphasis': filled('*a\n', 'b **c** '),
  'marks that only open': filled('', '*a _b '),
  'brackets that only open': filled('', '['),
  'nested brackets': filled('', '[') + filled('', ']'),
  'a link with a long text': filled('[', '*a* b ', '](c) d'),
  'a link with a long address': filled('[a](', 'b', ') c'),
  'a long code span': filled('`', 'a *b* ', '` c'),
  'an open comment': filled('x <!-- ', '<? a '),
  'a tag with many attributes': filled('x <a ', 'b="c" ', '> d'),
  'an address of brackets': filled('http://a', ']'),
  'a table header': filled('', '*a* | ', '\n-|-\nb|c'),
  'a table row': filled('a|b\n-|-\n', '*c* | `d` |', '\ne|f\n'),
  'a delimiter row': filled('a|b\n', '-|', '\nc|d'),
  'an info string': filled('```', 'a', '\n*b*\n```\n*c*'),
  'a thematic break': filled('a\n', '- ', '\nb'),
  'white space': filled('a\n', ' ', '\nb'),
  'white space before text': filled('a\n', ' ', 'b\nc'),
  hashes: filled('# a ', '#', ' b\nc'),
  'lines of backslashes': filled('a\n', '\\\n', 'b'),
  'indented white lines': filled('    a\n', '     \n', '    b'),
};

describe('a construct longer than the maximum that is held', () => {
  for (const [name, text] of Object.entries(INPUTS)) {
    it(`gives the same text however it is cut, in no step of ${SLOW_MS} ms: ${name}`, () => {
      const whole = format.whole(text);
      for (const size of [997, 3 * MAX_HELD + 1])
        assert.ok(streamed(text, size).output === whole, `pieces of ${size}`);
      let { output, steps } = streamed(text, MAX_HELD);
      assert.ok(output === whole);
      // The minimum of up to five runs, because other programs share the processor's caches.
      for (let runs = 1; runs < 5 && Math.max(...steps) >= SLOW_MS; runs += 1) {
        const again = streamed(text, MAX_HELD).steps;
        steps = steps.map((ms, index) => Math.min(ms, again[index] ?? 0));
      }
      assert.ok(Math.max(...steps) < SLOW_MS, `the longest step takes ${Math.max(...steps)} ms`);
    });
  }

  it('is text, and what follows it is Markdown again', () => {
    const link = filled('[', 'a', '](b)');
    assert.ok(format.whole(link) === link);
    assert.ok(format.whole(filled('*a* *b', ' c', '* *d*')) === filled('a *b', ' c', '* d'));
  });

  it('is emitted, so that at most the maximum is held', () => {
    const stream = format.stream();
    let output = '';
    const text = filled('*a', ' b');
    for (let at = 0; at < text.length; at += 1000) {
      output += stream.push(text.slice(at, at + 1000));
      assert.ok(at - output.length <= MAX_HELD);
    }
  });
});

/** The output, and the CPU time of each step in milliseconds. */
function streamed(text: string, size: number): { output: string; steps: number[] } {
  const stream = format.stream();
  const steps: number[] = [];
  let output = '';
  for (let at = 0; at <= text.length; at += size) {
    const start = cpuMs();
    output += stream.push(text.slice(at, at + size));
    steps.push(cpuMs() - start);
  }
  const start = cpuMs();
  output += stream.end();
  steps.push(cpuMs() - start);
  return { output, steps };
}
