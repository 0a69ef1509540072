import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Request } from 'express';
import fc from 'fast-check';
import { UNRESTRICTED } from '../../../../src/domain/access/access.ts';
import { idempotencyKey } from '../../../../src/http/request/idempotency.ts';

/** As much of a request as the key is read from. */
function request(lines: string[] | undefined, path = '/api/chat'): Request {
  const headersDistinct = lines ? { 'idempotency-key': lines } : {};
  const headers = lines ? { 'idempotency-key': lines.join(', ') } : {};
  return { path, headers, headersDistinct } as unknown as Request;
}

const keyOf = (text: string, asked: unknown = 'q', path?: string) =>
  idempotencyKey(request([text], path), UNRESTRICTED, () => ({ asked }));

describe('an Idempotency-Key', () => {
  it('is optional', () => {
    assert.equal(
      idempotencyKey(request(undefined), UNRESTRICTED, () => ({})),
      undefined,
    );
  });

  it('is the same key bare and quoted, with escaped characters', () => {
    const visible = Array.from({ length: 0x7e - 0x20 }, (_, n) => String.fromCharCode(0x21 + n));
    const key = fc.array(fc.constantFrom(...visible), { minLength: 1, maxLength: 255 });
    fc.assert(
      fc.property(key, (characters) => {
        const bare = characters.join('');
        fc.pre(!bare.startsWith('"'));
        const quoted = `"${bare.replace(/["\\]/g, '\\$&')}"`;
        assert.deepEqual(keyOf(quoted), keyOf(bare));
      }),
    );
  });

  it('may have at most 255 characters, not counting the quotes', () => {
    for (const length of [1, 255]) {
      const key = 'k'.repeat(length);
      assert.deepEqual(keyOf(`"${key}"`), keyOf(key));
    }
    for (const key of ['k'.repeat(256), `"${'k'.repeat(256)}"`]) {
      assert.throws(() => keyOf(key), { code: 'validation', status: 400 });
    }
  });

  it('is rejected when it is malformed, with the rule and without the value', () => {
    const malformed = [
      '',
      '""',
      '"',
      '"open',
      '"closed" too early"',
      '"a"; b=1',
      '"a", "b"',
      '"not \\escaped"',
      '"ends in \\"',
      'a b',
      '"a b"',
      'tab\tinside',
      'schlüssel',
      '\u007f',
      '密钥',
      'a\u0000b',
    ];
    for (const text of malformed) {
      assert.throws(
        () => keyOf(text),
        (error: Error & { code?: string; errors?: unknown }) => {
          assert.equal(error.code, 'validation', text);
          const message = 'must be sent once, as 1 to 255 visible ASCII characters, bare or in double quotes';
          assert.deepEqual(error.errors, [{ path: 'Idempotency-Key', message }]);
          assert.equal(error.message, `Idempotency-Key ${message}`);
          return true;
        },
      );
    }
    for (const lines of [['a', 'a'], ['a', 'b'], []]) {
      assert.throws(() => idempotencyKey(request(lines), UNRESTRICTED, () => ({})), { code: 'validation' });
    }
  });

  it('is case-sensitive, and another one on another route', () => {
    const ids = [keyOf('k'), keyOf('K'), keyOf('k', 'q', '/api/chat-stream')].map((key) => key?.id);
    assert.equal(new Set(ids).size, 3);
  });

  it('does not depend on the body, which has a hash of its own', () => {
    const [one, same, other] = [keyOf('k', { a: 1 }), keyOf('k', { a: 1 }), keyOf('k', { a: 2 })];
    assert.deepEqual(one, same);
    assert.equal(one?.id, other?.id);
    assert.notEqual(one?.bodyHash, other?.bodyHash);
  });

  it('is stored only as a hash', () => {
    assert.match(keyOf('order-4711')?.id ?? '', /^[\da-f]{64}$/);
    assert.match(keyOf('order-4711', 'q')?.bodyHash ?? '', /^[\da-f]{64}$/);
  });
});
