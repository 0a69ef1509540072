import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ByteBudget } from '../../src/llm/reply/limits.ts';
import { ReplyText } from '../../src/llm/reply/reply-text.ts';

/** Any UTF-16, lone surrogates included, with many pairs and wide characters. */
const units = fc.array(
  fc.oneof(
    fc.constantFrom('a', 'é', '世', '😀', '\ud83d', '\ude00', '\0'),
    fc.integer({ min: 0, max: 0xffff }).map((code) => String.fromCharCode(code)),
  ),
  { maxLength: 60 },
);

/** The text without lone surrogates and NUL. */
const cleaned = (text: string) => text.toWellFormed().replaceAll('\0', '\ufffd');

/** The text in pieces, cut between any two UTF-16 units. */
const pieces = fc.tuple(units, fc.array(fc.nat(60))).map(([parts, cuts]) => {
  const text = parts.join('');
  const edges = [0, ...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length];
  return { text, pieces: edges.slice(1).map((end, i) => text.slice(edges[i], end)) };
});

test('for every text and every cutting the pieces are well-formed and join to the well-formed text', () => {
  fc.assert(
    fc.property(pieces, ({ text, pieces: cut }) => {
      const reply = new ReplyText(new ByteBudget(10_000));
      const out = [...cut.map((piece) => reply.take(piece)), reply.rest()];
      assert.ok(out.every((piece) => piece.isWellFormed()));
      assert.equal(out.join(''), cleaned(text));
      assert.equal(reply.hasText, /[^\s\p{Cc}\p{Cf}]/u.test(cleaned(text)));
    }),
  );
});

test('for every limit the result is the longest start that fits, and a cut is always marked', () => {
  fc.assert(
    fc.property(pieces, fc.nat(120), ({ text, pieces: cut }, cap) => {
      const budget = new ByteBudget(cap);
      const reply = new ReplyText(budget);
      const out = [...cut.map((piece) => reply.take(piece)), reply.rest()].join('');
      const whole = cleaned(text);
      let expected = '';
      for (const character of whole) {
        if (Buffer.byteLength(expected + character) > cap) break;
        expected += character;
      }
      assert.equal(out, expected);
      assert.equal(budget.isExceeded, expected !== whole);
    }),
  );
});
