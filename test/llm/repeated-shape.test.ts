import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { RepeatedShape } from '../../src/llm/repeated-shape.ts';

const chunk = (content: string, more: object = {}) =>
  JSON.stringify({ id: 'x', choices: [{ index: 0, delta: { content }, finish_reason: null }], ...more });

const contentIn = (data: string): unknown => JSON.parse(data).choices[0].delta.content;

describe('chunks of one shape', () => {
  it('give their content without being parsed', () => {
    const shape = new RepeatedShape();
    assert.equal(shape.contentOf(chunk('one')), undefined);
    shape.learn(chunk('one'), 'one');
    assert.equal(shape.contentOf(chunk('two')), 'two');
    assert.equal(shape.contentOf(chunk('你好😀')), '你好😀');
  });

  it('are parsed when anything else differs, or when the content has an escape or is empty', () => {
    const shape = new RepeatedShape();
    shape.learn(chunk('one'), 'one');
    for (const data of [
      chunk(''),
      chunk('a"b'),
      chunk('a\nb'),
      chunk('a\\b'),
      chunk('two', { usage: { prompt_tokens: 1 } }),
      chunk('two').replace('null', '"stop"'),
      chunk('two').slice(0, -1),
      '[DONE]',
    ]) {
      assert.equal(shape.contentOf(data), undefined, data);
    }
  });

  it('are not learnt where the first "content" is not the content', () => {
    const shape = new RepeatedShape();
    const odd = '{"note":{"content":"one"},"choices":[{"delta":{"content":"one"}}]}';
    shape.learn(odd, 'one');
    assert.equal(shape.contentOf(odd.replaceAll('one', 'two')), undefined);
    const twice = '{"choices":[{"delta":{"content":"one","content":"one"}}]}';
    shape.learn(twice, 'one');
    assert.equal(shape.contentOf(twice), undefined);
  });

  it('are forgotten by a stream whose chunks never repeat', () => {
    const shape = new RepeatedShape();
    for (let i = 0; i < 20; i += 1) shape.learn(chunk(`${i}`, { created: i }), `${i}`);
    assert.equal(shape.contentOf(chunk('x', { created: 19 })), undefined);
  });

  it('never give anything but what JSON.parse gives', () => {
    const text = fc.string({
      unit: fc.constantFrom('a', '"', '\\', ',', '{', '}', ':', 'content', 'é', '你', '\n', ']'),
    });
    fc.assert(
      fc.property(text, text, fc.array(text), (first, noise, rest) => {
        const shape = new RepeatedShape();
        shape.learn(chunk(first, { noise }), first);
        for (const content of rest) {
          const data = chunk(content, { noise });
          const got = shape.contentOf(data);
          if (got !== undefined) assert.equal(got, contentIn(data));
        }
      }),
      { numRuns: 2000 },
    );
  });
});
