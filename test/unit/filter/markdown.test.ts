import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { createWordFilters, Fold } from '../../../src/filter/index.ts';
import { createTextFormat } from '../../../src/markdown/index.ts';
import { anyCharacter } from '../../support/any-character.ts';
import { rounds } from '../../support/random.ts';

const fold = new Fold();
const format = createTextFormat();
const masked = (words: readonly string[], markdown: string) =>
  createWordFilters(words, fold).markdown.whole(markdown, 'mask').text;

describe('in Markdown, a word is masked', () => {
  for (const [where, markdown, output] of [
    ['in plain text', '这是敏感词。', '这是〇〇〇。'],
    ['with marks inside, which stay', '**敏感**词', '**〇〇**〇'],
    ['with many of them', '~~敏~~*感*`词`', '~~〇~~*〇*`〇`'],
    ['that begins before a link', '敏[感词](https://x.y)', '〇[〇〇](https://x.y)'],
    ['in an address', '[a](https://x.y/敏感词)', '[a](https://x.y/〇〇〇)'],
    ['written as character references', '&#25935;&#x611f;词&amp;', '〇〇〇&amp;'],
    ['with escapes, which go', 'a\\-b', '〇〇〇'],
    ['in code', '```\n敏感词\n```', '```\n〇〇〇\n```'],
    ['with a mark of its own', 'f*ck, f\\*ck', '〇〇〇〇, 〇〇〇〇'],
  ] as const) {
    it(where, () => assert.equal(masked(['敏感词', 'a-b', 'f*ck'], markdown), output));
  }

  it('but not text that only matches without a mark of the word', () => {
    assert.equal(masked(['C*', 'x_y'], 'C, x y, *C, xy'), 'C, x y, *C, xy');
  });

  it('but not across two lines', () => {
    assert.equal(masked(['敏感词'], '敏感\n词 **敏感**\n\n**词**'), '敏感\n词 **敏感**\n\n**词**');
  });
});

const WORDS = ['敏感词', '感人', 'bad', 'a-b', 'buy now', 'f*ck', '国'];
const PIECES = [
  ...WORDS,
  ...'敏感词人國abduy',
  'buy',
  'now',
  '-',
  '\\-',
  '\\*',
  '\\',
  '&#25935;',
  '&#x611F;',
  '&amp;',
  '&',
  '&#2',
  '5935;',
  '*',
  '*',
  '**',
  '**',
  '***',
  '_',
  '__',
  '`',
  '``',
  '~~',
  '[',
  ']',
  '](u)',
  ' ',
  '\u200b',
  '，',
  '\n\n',
  '\n- ',
  '\n> ',
  '\n# ',
  '\n1. ',
  '|',
  '😀',
];
const pieces = fc.array(fc.constantFrom(...PIECES), { maxLength: 24 });

describe('a filter of Markdown', () => {
  const { text, markdown } = createWordFilters(WORDS, fold);

  it('leaves no word in the text format', () => {
    fc.assert(
      fc.property(pieces, (parts) => {
        const form = format.whole(markdown.whole(parts.join(''), 'mask').text);
        assert.deepEqual(text.whole(form, 'mask').hits, [], form);
      }),
      { numRuns: rounds(4000, 20_000) },
    );
  });

  it('has the same output in a stream as for the whole text', () => {
    fc.assert(
      fc.property(pieces, fc.constantFrom('mask' as const, 'block' as const), (parts, action) => {
        const document = parts.join('');
        const whole = markdown.whole(document, action);
        for (const cut of [parts, Array.from(document)]) {
          const stream = markdown.stream(action);
          const output = cut.map((piece) => stream.push(piece)).join('') + stream.end();
          assert.equal(output, whole.text);
          assert.equal(stream.found, whole.hits.length > 0);
        }
      }),
      { numRuns: rounds(1000, 5000) },
    );
  });

  it('holds back no mark before or after words', () => {
    const stream = markdown.stream('mask');
    const output = ['**', '敏', '感', '**', '词', '**', '好'].map((piece) => stream.push(piece));
    assert.deepEqual(output, ['**', '', '', '', '〇〇**〇', '**', '好']);
  });

  it('changes nothing without a word', () => {
    fc.assert(
      fc.property(fc.string({ unit: anyCharacter, maxLength: 60 }), (document) => {
        const none = createWordFilters(['敏感词'], fold).markdown;
        assert.equal(none.whole(document, 'mask').text, document);
      }),
    );
  });
});
