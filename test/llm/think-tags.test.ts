import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ThinkTags } from '../../src/llm/reply/think-tags.ts';

function split(pieces: readonly string[]): { content: string; reasoning: string } {
  let reasoning = '';
  const tags = new ThinkTags((text) => {
    assert.notEqual(text, '');
    reasoning += text;
  });
  let content = '';
  for (const piece of pieces) content += tags.push(piece);
  content += tags.end();
  return { content, reasoning };
}

const CASES: readonly (readonly [name: string, text: string, reasoning: string, content: string])[] = [
  ['are cut out, with the white space after them', '<think>Hm</think>\n\n\tHi', 'Hm', 'Hi'],
  ['may follow white space', ' \n<think>Hm</think>Hi', 'Hm', 'Hi'],
  ['keep the white space of the reasoning', '<think>\nHm \n</think>Hi', '\nHm \n', 'Hi'],
  ['without a closing one are reasoning to the end', '<think>Hm</thin', 'Hm</thin', ''],
  ['that close nothing are text', 'Hi</think>', '', 'Hi</think>'],
  ['later in the text are text', 'Hi <think>Hm</think>', '', 'Hi <think>Hm</think>'],
  ['that come again are text', '<think>a</think><think>b</think>', 'a', '<think>b</think>'],
  ['that open again inside are reasoning', '<think>a<think>b</think>c', 'a<think>b', 'c'],
  ['around white space hold no reasoning', '<think>\n\n</think>\n\nHi', '', 'Hi'],
  ['with nothing after them leave no text', '<think>Hm</think>\n ', 'Hm', ''],
  ['that are similar are text', '<thinking>Hm</thinking>', '', '<thinking>Hm</thinking>'],
  ['that are not whole are text', '<thin', '', '<thin'],
  ['of the wrong case are text', '<Think>Hm</Think>', '', '<Think>Hm</Think>'],
  ['with similar ones inside', '<think></thi</think </think>Hi', '</thi</think ', 'Hi'],
  ['around other characters', '<think>🤔é</think>👍', '🤔é', '👍'],
];

describe('think tags', () => {
  for (const [name, text, reasoning, content] of CASES) {
    it(`${name}, however the text is cut`, () => {
      const expected = { content, reasoning };
      assert.deepEqual(split([...text]), expected, 'each character for itself');
      for (let a = 0; a <= text.length; a++) {
        for (let b = a; b <= text.length; b++) {
          const pieces = [text.slice(0, a), text.slice(a, b), text.slice(b)];
          assert.deepEqual(split(pieces), expected, JSON.stringify(pieces));
        }
      }
    });
  }

  it('give the same for every text and every cutting', () => {
    const part = fc.constantFrom('<think>', '</think>', '<', '</', 'think>', ' ', '\n', 'a', '🤔');
    fc.assert(
      fc.property(fc.array(part, { maxLength: 12 }), fc.array(fc.nat(), { maxLength: 8 }), (parts, cuts) => {
        const text = parts.join('');
        const edges = [0, ...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length];
        const pieces = edges.slice(1).map((end, index) => text.slice(edges[index], end));
        const inTags = /^\s*<think>(?:(.*?)<\/think>\s*(.*)|(.*))$/s.exec(text);
        const reasoning = inTags ? (inTags[1] ?? inTags[3] ?? '') : '';
        const content = inTags ? (inTags[2] ?? '') : text;
        assert.deepEqual(split(pieces), { content, reasoning: reasoning.trim() === '' ? '' : reasoning });
      }),
    );
  });

  it('hold back endless white space no further than needed', () => {
    const tags = new ThinkTags(() => {});
    let content = '';
    for (let n = 0; n < 100; n++) content += tags.push(' '.repeat(100));
    assert.ok(content.length > 8000);
  });
});
