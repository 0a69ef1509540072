import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Fold } from '../../../src/filter/index.ts';

const fold = new Fold();

function sameAs(one: string, other: string): boolean {
  return fold.word(one) === fold.word(other);
}

describe('two spellings are equal', () => {
  for (const [rule, one, other] of [
    ['case', 'PAYPAL', 'paypal'],
    ['case of Greek, with its final sigma', 'ΟΔΟΣ', 'οδος'],
    ['full width', 'ｐａｙＰＡＬ１', 'paypal1'],
    ['half-width katakana', 'ｱﾒﾘｶ', 'アメリカ'],
    ['traditional characters', '臺灣發財後門頭髮', '台湾发财后门头发'],
    ['several simplified in one', '乾幹', '干干'],
    ['letters in circles and of mathematics', 'Ⓐ𝐁𝒞①', 'abc1'],
    ['compatibility ideographs', '\uf900㊙', '豈秘'],
    ['accents, composed or not', 'mǐnGǎn', 'mi\u030cnga\u030cn'],
    ['accents or none', 'mǐngǎn', 'mingan'],
    ['characters that cannot be seen', '敏\u200b感\u2060\ufeff词\u00ad', '敏感词'],
    ['strokes through characters', '敏\u0336感\u20dd', '敏感'],
    ['emoji with and without selector', '❤\ufe0f', '❤'],
    ['white space between Chinese characters', '敏 感\u3000词', '敏感词'],
    ['kinds of white space', 'buy\u00a0now', 'buy now'],
  ] as const) {
    it(`by ${rule}`, () => assert.ok(sameAs(one, other)));
  }
});

describe('two words differ', () => {
  for (const [rule, one, other] of [
    ['white space in a phrase', 'buy now', 'buynow'],
    ['punctuation', '敏，感', '敏感'],
    ['what would become two characters', 'ß', 'ss'],
    ['voiced kana', 'バカ', 'ハカ'],
    ['Hangul', '각', '가'],
    ['Chinese characters that are no variants', '敏', '每'],
  ] as const) {
    it(`by ${rule}`, () => assert.ok(!sameAs(one, other)));
  }
});

describe('a folded character', () => {
  it('is at most one code point, for every code point that has a meaning', () => {
    for (let codePoint = 0; codePoint <= 0x10ffff; codePoint += codePoint === 0xd7ff ? 0x801 : 1) {
      const char = String.fromCodePoint(codePoint);
      if (/[\p{Unassigned}\p{Private_Use}]/u.test(char)) continue;
      const folded = fold.word(char);
      assert.ok(Array.from(folded).length <= 1 && folded.isWellFormed(), codePoint.toString(16));
    }
  });

  it('is the same for all characters with the same simple case folding', () => {
    for (let codePoint = 0x41; codePoint <= 0x1e943; codePoint += codePoint === 0xd7ff ? 0x801 : 1) {
      const char = String.fromCodePoint(codePoint);
      for (const other of [char.toLowerCase(), char.toUpperCase()]) {
        // The iota below is an accent where it stands, and a letter as a capital.
        if (char === '\u0345' || other === '\u0345') continue;
        // With these flags, a regular expression compares by simple case folding.
        if (other === char || !/^.$/su.test(other) || !new RegExp(`^${other}$`, 'iu').test(char)) continue;
        assert.equal(fold.word(char), fold.word(other), codePoint.toString(16));
      }
    }
  });
});
