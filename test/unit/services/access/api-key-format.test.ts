import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { hashOf, looksLikeKey, makeKey } from '../../../../src/services/access/api-key-format.ts';
import { anyCharacter } from '../../../support/any-character.ts';
import { rounds } from '../../../support/random.ts';
import { cpuMs } from '../../../support/ticks.ts';

const LENGTH = 61;

describe('the text of an API key', () => {
  it('begins with its public prefix, and needs no quoting', () => {
    const { key, prefix, hash } = makeKey();
    assert.match(key, /^ck_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}$/);
    assert.equal(key.length, LENGTH);
    assert.ok(key.startsWith(`${prefix}_`));
    assert.match(prefix, /^ck_[0-9A-Za-z]{8}$/);
    assert.equal(hash, hashOf(key));
    assert.match(hash, /^[0-9a-f]{64}$/);
  });

  it('is random, and recognized as a key', () => {
    const keys = Array.from({ length: 500 }, () => makeKey().key);
    assert.equal(new Set(keys).size, keys.length);
    assert.ok(keys.every(looksLikeKey));
    // Each character of the alphabet somewhere: none is left out by a slip in the generator.
    assert.equal(new Set(keys.flatMap((key) => [...key.slice(3)])).size, 63);
  });

  it('is not valid with one character changed, removed, added or swapped', () => {
    const { key } = makeKey();
    const letters = [...'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_'];
    const place = fc.nat({ max: LENGTH - 1 });
    fc.assert(
      fc.property(place, fc.constantFrom(...letters), (at, letter) => {
        const [before, after] = [key.slice(0, at), key.slice(at + 1)];
        const swapped = before + after.slice(0, 1) + key.charAt(at) + after.slice(1);
        for (const changed of [
          before + letter + after,
          before + after,
          before + letter + key.slice(at),
          swapped,
        ]) {
          assert.equal(looksLikeKey(changed), changed === key, changed);
        }
      }),
      { numRuns: rounds(400, 2000) },
    );
  });

  it('is distinguished from any other text without an exception, and quickly from a long one', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: anyCharacter }), fc.string({ unit: 'grapheme' })), (text) => {
        assert.equal(looksLikeKey(text), false);
        assert.equal(looksLikeKey(`ck_${text}`), false);
      }),
    );
    const began = cpuMs();
    for (let round = 0; round < 1000; round++) looksLikeKey('ck_A'.repeat(1_000_000));
    assert.ok(cpuMs() - began < 1000);
  });
});
