import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createTextFormat } from '../../../src/markdown/index.ts';
import { rounds } from '../../support/random.ts';

const format = createTextFormat();
const LONG = rounds(250_000, 1_000_000);
const CHUNK = 3;
/** Of long documents. */
const LONG_CHUNK = 30;
/** Milliseconds below which a cost is not judged; quadratic work is above at a quarter of a nanosecond for each pair. */
const ALWAYS_FINE = 60;

function fill(piece: string, length: number): string {
  return piece.repeat(Math.ceil(length / piece.length)).slice(0, length);
}

/** CPU time in milliseconds of streaming a document in small pieces. */
function cost(document: string, chunk = CHUNK): number {
  const start = process.cpuUsage();
  const stream = format.stream();
  let length = 0;
  for (let at = 0; at < document.length; at += chunk)
    length += stream.push(document.slice(at, at + chunk)).length;
  length += stream.end().length;
  const { user, system } = process.cpuUsage(start);
  assert.ok(length <= document.length * 16);
  return (user + system) / 1000;
}

type Make = (length: number) => string;

const REPLIES: Readonly<Record<string, Make>> = {
  'one paragraph': (n) => fill('The quick brown fox, ', n),
  'one paragraph in Chinese': (n) => fill('今天天气很好，', n),
  'ten thousand paragraphs': (n) => fill(`${'x'.repeat(98)}\n\n`, n),
  'one code block': (n) => `\`\`\`\n${fill('let a = b * c;\n', n)}`,
  'one list': (n) => fill('- item *one* with `code`\n', n),
  'one table': (n) => `| a | b |\n|---|---|\n${fill('| cell *x* | two |\n', n)}`,
  'an unclosed *': (n) => `*${fill('abc def ', n)}`,
  'an unclosed [': (n) => `[${fill('abc def ', n)}`,
  'an unclosed backtick': (n) => `\`${fill('abc def ', n)}`,
};

const RUNS = [
  '*',
  '_',
  '[',
  '>',
  '`',
  '~',
  '#',
  '|',
  '<',
  '&',
  '\\',
  '!',
  '-',
  ' ',
  '\t',
  '\n',
  '\r',
  '\0',
  '\ud83d',
];

function growingBackticks(length: number): string {
  let text = 'a ';
  for (let i = 1; text.length < length; i++) text += `${'`'.repeat(i)} `;
  return text;
}

/** Pieces that, repeated, made Markdown parsers quadratic. */
const PIECES = [
  'a*',
  '$a ',
  '$',
  '$$a ',
  '$$\n',
  '$$\n\n',
  '\\(',
  '\\( \\[ ',
  '\\[a\n',
  '*a ',
  ' _a',
  '*a _b **c ',
  '*a_ **b* ',
  'a**b*c***',
  '~~a ',
  '*a ~~b ',
  '> ',
  '- ',
  '1. ',
  '\\*',
  'a\\\n',
  '[a](b) ',
  '[a](',
  '[a](b "',
  '[a](b \'x" ',
  '[a](b (',
  '[x [a](b) ',
  '![x [a](b) ',
  '[]',
  '![',
  '](u)',
  '&amp;',
  '&ampx',
  'a <!-- ',
  'a <? ',
  'a <!A',
  'a <![CDATA[',
  "x <a b=\"c' <a b='",
  '<a b=c ',
  '<ab:',
  '`a`` ',
  '`` ` ',
  'http://a.b ',
  '. http://a&a',
  'a | b\n',
  '|-',
  'a\n=\n',
  '    a\n\n',
  '<p>x</p>\n',
  '- a\n  - b\n',
  '*a\n',
  '`\n',
  '[\n',
  'a\n\n> b\n',
];

const SHAPES: Readonly<Record<string, Make>> = {
  'brackets that all close': (n) => fill('[', n / 2) + fill(']', n / 2),
  'nested images': (n) => fill('![', n / 2) + fill('](u)', n / 2),
  'backticks of growing lengths': growingBackticks,
  'an address of dots': (n) => `http://a${fill('.', n)}`,
  'an address of parentheses': (n) => `http://a${fill('(', n / 2)}${fill(')', n / 2)}`,
  'blank lines in deep lists': (n) => `${fill('* - ', 2000)}a${fill('\n', n)}`,
  'lazy lines in deep lists': (n) => `${fill('* - ', 2000)}a\n${fill('b\n', n)}`,
  'deeper and deeper lists': (n) => {
    let text = '';
    for (let i = 0; text.length < n; i++) text += `${' '.repeat(2 * (i % 200))}- a\n`;
    return text;
  },
  'an unclosed tag': (n) => `<a ${fill('b="c" ', n)}`,
  'an unclosed attribute': (n) => `<a b="${fill('b c ', n)}`,
  'an info string': (n) => `\`\`\`${fill('a ', n)}`,
  'a table of one row': (n) => `|${fill('a|', n / 2)}\n|${fill('-|', n / 2)}`,
  'blank lines in indented code': (n) => `    a\n${fill('\n', n)}    b`,
  'a heading of #': (n) => `# ${fill('# ', n)}a`,
  'spaces inside a line': (n) => `a${fill(' ', n)}b`,
};
for (const piece of [...RUNS, ...PIECES])
  Object.assign(SHAPES, { [JSON.stringify(piece)]: (n: number) => fill(piece, n) });

describe('the cost is linear in the length', () => {
  for (const [name, make] of Object.entries(REPLIES)) {
    it(`for a long reply: ${name}`, () => {
      assert.ok(cost(make(LONG), LONG_CHUNK) < LONG / 200);
    });
  }

  for (const [name, make] of Object.entries({ ...REPLIES, ...SHAPES })) {
    it(`for ${name}`, () => {
      const costs: string[] = [];
      // The first of five rounds that is fine: what is quadratic is so in each.
      for (let isFine = false; !isFine; ) {
        assert.ok(costs.length < 5, `${costs}`);
        // First, so that compilation counts against it.
        const large = cost(make(40_000));
        // Four times the length costs four times as much if linear, sixteen times if quadratic.
        const limit = large < ALWAYS_FINE ? ALWAYS_FINE : cost(make(10_000)) * 6.5;
        isFine = large < limit;
        costs.push(`${large} ms of ${limit} ms`);
      }
    });
  }

  it('for many backticks of growing lengths', () => {
    assert.ok(cost(growingBackticks(LONG), LONG_CHUNK) < LONG / 300);
  });

  for (const run of ['*', '_', '[', '>']) {
    it(`for ${run} repeated often, alone and after a word`, () => {
      assert.ok(cost(run.repeat(LONG / 2), LONG_CHUNK) < LONG / 300);
      assert.ok(cost(`a ${run.repeat(LONG / 2)}b`, LONG_CHUNK) < LONG / 300);
    });
  }
});

describe('ordinary text', () => {
  it('costs a few microseconds for each piece of four characters', () => {
    for (const text of [
      fill('The quick brown fox jumps over the lazy dog. ', 200_000),
      fill('今天天气很好，我们去公园吧。', 200_000),
    ]) {
      cost(text, 4);
      assert.ok((cost(text, 4) * 1000) / (text.length / 4) < 6);
    }
  });
});
