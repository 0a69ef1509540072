import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { createTextFormat } from '../../../src/markdown/index.ts';
import { rounds } from '../../support/random.ts';
import { anyText, blockMarkdown, formulas, inlineMarkdown, markdown } from './generator.ts';
import { SAMPLES } from './samples.ts';

const format = createTextFormat();

function streamed(chunks: readonly string[]): string {
  const stream = format.stream();
  let text = '';
  for (const chunk of chunks) text += stream.push(chunk);
  return text + stream.end();
}

/** Cuts text into pieces, repeating the given lengths. */
function cut(text: string, lengths: readonly number[]): string[] {
  const chunks: string[] = [];
  for (let at = 0, i = 0; at < text.length; i++) {
    const length = lengths[i % lengths.length] ?? 1;
    chunks.push(text.slice(at, at + length));
    at += length;
  }
  return chunks;
}

const lengths = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 12 });

describe('the streamed text equals the text of the whole document', () => {
  for (const size of [1, 2, 3, 4, 7, 64]) {
    it(`for real replies in pieces of ${size}`, () => {
      for (const sample of Object.values(SAMPLES)) {
        assert.equal(streamed(cut(sample, [size])), format.whole(sample));
      }
    });
  }

  it('for real replies in random pieces', () => {
    const samples = fc.shuffledSubarray(Object.values(SAMPLES), { minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(samples, lengths, (some, sizes) => {
        const document = some.join('\n\n');
        assert.equal(streamed(cut(document, sizes)), format.whole(document));
      }),
      { numRuns: rounds(100, 300) },
    );
  });

  const kinds = {
    paragraphs: inlineMarkdown,
    blocks: blockMarkdown,
    formulas,
    Markdown: markdown,
    text: anyText,
  };
  for (const [name, documents] of Object.entries(kinds)) {
    it(`for random ${name} in random pieces`, () => {
      fc.assert(
        fc.property(documents, lengths, (document, sizes) => {
          assert.equal(streamed(cut(document, sizes)), format.whole(document));
          assert.equal(streamed(document.split('')), format.whole(document));
        }),
        { numRuns: rounds(250, 2000) },
      );
    });
  }

  it('with empty pieces in between', () => {
    assert.equal(streamed(['', '**a', '', '**', '', '\r', '', '\n', 'b']), 'a\nb');
  });
});

describe('a stream', () => {
  it('never throws, for any input', () => {
    fc.assert(
      fc.property(anyText, lengths, (text, sizes) => {
        streamed(cut(text, sizes));
      }),
      { numRuns: rounds(300, 3000) },
    );
  });

  it('splits no surrogate pair that the input did not split', () => {
    const pieces = fc.array(
      fc.constantFrom('😀', '𠮷', '*', '**', '[', '`', 'a', ' ', '\n', '👍🏽', '](u)'),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(pieces, (chunks) => {
        const stream = format.stream();
        for (const chunk of chunks) assert.ok(stream.push(chunk).isWellFormed());
        assert.ok(stream.end().isWellFormed());
      }),
      { numRuns: rounds(200, 1000) },
    );
  });

  it('shares no state with another stream', () => {
    const one = format.stream();
    const other = format.stream();
    assert.equal(one.push('```\n*a*') + other.push('*b* c'), '*a*b c');
    assert.equal(one.end() + other.end(), '');
  });
});
