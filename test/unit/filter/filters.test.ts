import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { FilterStream, WordFilter } from '../../../src/domain/filter.ts';
import { createWordFilters, Fold } from '../../../src/filter/index.ts';
import { rounds } from '../../support/random.ts';
import { expected } from './oracle.ts';

const fold = new Fold();
const filterOf = (...words: string[]) => createWordFilters(words, fold).text;
const masked = (filter: WordFilter, text: string) => filter.whole(text, 'mask').text;

function streamed(stream: FilterStream, pieces: readonly string[]): string[] {
  return [...pieces.map((piece) => stream.push(piece)), stream.end()];
}

/** Few enough characters that words are met often; of every kind that counts in its own way. */
const CHARS = [...'aAｂ敏感國国 \n，😀𠮷𝐀é', '\u3000', '\u200b', '\u0301', '\u{fe0f}'];
const SPELLED = [...'abB敏感国國 😀𠮷', 'é'];
const glued = (chars: readonly string[], min: number, max: number) =>
  fc.array(fc.constantFrom(...chars), { minLength: min, maxLength: max });
const someWords = fc.array(
  glued(SPELLED, 1, 4)
    .map((chars) => chars.join('').trim())
    .filter((word) => word !== ''),
  { minLength: 1, maxLength: 6 },
);
/** A text in pieces. */
const someText = fc.array(
  glued(CHARS, 0, 5).map((chars) => chars.join('')),
  { maxLength: 12 },
);

describe('a whole text', () => {
  it('has a star for each character of a word', () => {
    assert.deepEqual(filterOf('敏感词', 'bad').whole('这是敏感词，BAD!', 'mask'), {
      text: '这是***，***!',
      hits: [
        { start: 2, end: 5 },
        { start: 6, end: 9 },
      ],
    });
  });

  it('is unchanged without a word', () => {
    assert.deepEqual(filterOf('敏感词').whole('敏感，词', 'mask'), { text: '敏感，词', hits: [] });
    assert.equal(masked(filterOf(), '敏感词'), '敏感词');
  });

  it('has one hit for overlapping words, and two for adjacent ones', () => {
    const filter = filterOf('abc', 'bcd', 'c', 'xy');
    assert.deepEqual(filter.whole('abcdxyxy', 'mask'), {
      text: '********',
      hits: [
        { start: 0, end: 4 },
        { start: 4, end: 6 },
        { start: 6, end: 8 },
      ],
    });
  });

  it('counts an emoji as one character', () => {
    const filter = filterOf('😀x');
    assert.deepEqual(filter.whole('😁😀x😁', 'mask'), { text: '😁**😁', hits: [{ start: 2, end: 5 }] });
  });

  it('masks accents with their letter', () => {
    assert.equal(masked(filterOf('cafe'), 'cafe\u0301s cafés'), '*****s ****s');
  });

  it('ends before the first blocked word', () => {
    const filter = filterOf('敏感词', '词汇');
    assert.deepEqual(filter.whole('好的，敏感词汇', 'block'), {
      text: '好的，',
      hits: [{ start: 3, end: 6 }],
    });
    assert.deepEqual(filter.whole('好的', 'block'), { text: '好的', hits: [] });
  });

  it('skips spaces between Chinese characters, but not in a phrase', () => {
    const filter = filterOf('敏感词', 'buy now');
    assert.equal(masked(filter, '敏 感\u3000词'), '*****');
    assert.equal(masked(filter, '敏\n感词'), '敏\n感词');
    assert.equal(masked(filter, 'buy\u3000now buynow'), '******* buynow');
  });

  it('finds no word across many invisible characters', () => {
    const filter = filterOf('ab');
    assert.equal(masked(filter, `a${'\u200b'.repeat(32)}b`), '*'.repeat(34));
    const far = `a${'\u200b'.repeat(33)}b`;
    assert.equal(masked(filter, far), far);
  });

  it('is masked exactly where the words are', () => {
    fc.assert(
      fc.property(someWords, someText, (words, pieces) => {
        const text = pieces.join('');
        const { text: output, hits } = expected(text, words, fold);
        assert.deepEqual(filterOf(...words).whole(text, 'mask'), { text: output, hits });
      }),
      { numRuns: rounds(1000, 5000) },
    );
  });
});

describe('a stream', () => {
  it('finds a short word that it holds back for a longer one', () => {
    const stream = filterOf('敏', '國', 'b敏國a').stream('mask');
    assert.equal(streamed(stream, ['ｂ', '敏', '國', '国']).join(''), 'ｂ***');
  });

  it('has the same output as the whole text, however it is split', () => {
    fc.assert(
      fc.property(
        someWords,
        someText,
        fc.constantFrom('mask' as const, 'block' as const),
        (words, pieces, action) => {
          const filter = filterOf(...words);
          const whole = filter.whole(pieces.join(''), action);
          for (const cut of [pieces, Array.from(pieces.join(''))]) {
            const stream = filter.stream(action);
            assert.equal(streamed(stream, cut).join(''), whole.text);
            assert.equal(stream.found, whole.hits.length > 0);
            assert.equal(stream.blocked, action === 'block' && whole.hits.length > 0);
          }
        },
      ),
      { numRuns: rounds(1000, 5000) },
    );
  });

  it('holds back only text that may become a word', () => {
    fc.assert(
      fc.property(someWords, someText, (words, pieces) => {
        const stream = filterOf(...words).stream('mask');
        let [said, output] = ['', ''];
        for (const piece of pieces) {
          said += piece;
          output += stream.push(piece);
          assert.equal(output, expected(said, words, fold).decided);
        }
      }),
      { numRuns: rounds(600, 3000) },
    );
  });

  it('emits text as soon as it cannot be a word', () => {
    const stream = filterOf('敏感词', '感人肺腑').stream('mask');
    assert.deepEqual(streamed(stream, ['很敏', '感', '人', '，词']), ['很', '', '敏', '感人，词', '']);
  });

  it('emits a mask immediately, even if a longer word may begin in it', () => {
    const stream = filterOf('ab', 'bcd').stream('mask');
    assert.deepEqual(streamed(stream, ['ab', 'c', 'd!']), ['**', '', '**!', '']);
    assert.deepEqual(streamed(filterOf('ab', 'bcd').stream('mask'), ['ab', 'c', 'x']), ['**', '', 'cx', '']);
  });

  it('emits nothing of a blocked word and nothing after it', () => {
    const stream = filterOf('abcd', 'bc').stream('block');
    assert.deepEqual(streamed(stream, ['xa', 'b', 'cd', 'more']), ['x', '', '', '', '']);
    assert.ok(stream.blocked);
  });

  it('emits held-back text at the end', () => {
    assert.deepEqual(streamed(filterOf('敏感词').stream('mask'), ['敏感']), ['', '敏感']);
    assert.deepEqual(streamed(filterOf('敏感词').stream('block'), ['敏感']), ['', '敏感']);
  });

  it('is independent of other streams', () => {
    const filter = filterOf('ab');
    const [one, other] = [filter.stream('mask'), filter.stream('mask')];
    assert.deepEqual([one.push('a'), other.push('b'), one.push('b'), other.end()], ['', 'b', '**', '']);
  });
});

describe('the cost', () => {
  const LENGTH = rounds(150_000, 500_000);

  it('of a hundred thousand words is below two seconds of processor time at the start', () => {
    const words = Array.from({ length: 100_000 }, (_, index) =>
      String.fromCodePoint(0x4e00 + (index % 6007), 0x4e00 + (index % 4999), 0x4e00 + (index % 31)),
    );
    const start = process.cpuUsage();
    const filter = filterOf(...words);
    const { user, system } = process.cpuUsage(start);
    assert.ok(user + system < 2_000_000, `${user + system} µs`);
    assert.equal(masked(filter, `x${words[70_000]}x`), 'x***x');
  });

  for (const [name, piece] of [
    ['starts of words', '敏感'],
    ['words', '敏感词'],
    ['invisible characters in a word', '敏\u200b\u200b\u200b'],
    ['invisible characters', '\u200b'],
    ['long words inside each other', 'aaaa'],
  ] as const) {
    it(`is linear in the length of the text: ${name}`, () => {
      const filter = filterOf('敏感词', '敏敏敏敏敏敏敏敏词', 'a'.repeat(200), 'a'.repeat(199));
      const start = process.cpuUsage();
      const stream = filter.stream('mask');
      for (let length = 0; length < LENGTH; length += piece.length) stream.push(piece);
      stream.end();
      const { user, system } = process.cpuUsage(start);
      assert.ok(user + system < 6 * LENGTH, `${user + system} µs`);
    });
  }
});
