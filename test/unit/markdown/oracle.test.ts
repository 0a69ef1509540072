import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { createTextFormat } from '../../../src/markdown/index.ts';
import { rounds } from '../../support/random.ts';
import { blockMarkdown, formulas, inlineMarkdown, isExempt, markdown } from './generator.ts';
import { oracle } from './oracle.ts';
import { SAMPLES } from './samples.ts';

const format = createTextFormat();
const RUNS = rounds(250, 2000);

describe('the text equals the oracle for', () => {
  for (const [name, sample] of Object.entries(SAMPLES)) {
    it(name, () => {
      assert.equal(format.whole(sample), oracle(sample));
    });
  }

  it('all samples in one document', () => {
    const document = Object.values(SAMPLES)
      .filter((sample) => !/unclosed \*code/.test(sample))
      .join('\n\n');
    assert.equal(format.whole(document), oracle(document));
  });

  const kinds = {
    'random paragraphs': inlineMarkdown,
    'random blocks': blockMarkdown,
    'random formulas': formulas,
    'random Markdown': markdown,
  };
  for (const [name, documents] of Object.entries(kinds)) {
    it(name, () => {
      fc.assert(
        fc.property(
          documents.filter((document) => !isExempt(document)),
          (document) => {
            assert.equal(format.whole(document), oracle(document));
          },
        ),
        { numRuns: RUNS },
      );
    });
  }
});
