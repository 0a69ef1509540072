import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { presentedKey } from '../../../../src/http/access/credentials.ts';
import { anyCharacter } from '../../../support/any-character.ts';
import { rounds } from '../../../support/random.ts';
import { cpuMs } from '../../../support/ticks.ts';

const keyOf = (...headers: [name: string, value: string][]) => presentedKey({ rawHeaders: headers.flat() });

describe('the key of a request', () => {
  it('is in Authorization, its scheme in any case, or in X-API-Key', () => {
    assert.equal(keyOf(['Host', 'x'], ['Authorization', 'Bearer ck_a']), 'ck_a');
    assert.equal(keyOf(['AUTHORIZATION', 'bEARER   ck_a']), 'ck_a');
    assert.equal(keyOf(['x-api-key', 'ck_a'], ['Accept', '*/*']), 'ck_a');
  });

  it('is undefined if there is none', () => {
    assert.equal(keyOf(), undefined);
    assert.equal(keyOf(['X-API-Keys', 'ck_a'], ['Proxy-Authorization', 'Bearer ck_a']), undefined);
  });

  it('may be in both if it is the same', () => {
    assert.equal(keyOf(['Authorization', 'Bearer ck_a'], ['X-API-Key', 'ck_a']), 'ck_a');
    assert.equal(keyOf(['Authorization', 'Bearer ck_a'], ['X-API-Key', 'ck_b']), 'malformed');
  });

  it('is malformed in a repeated header, even with the same value', () => {
    for (const value of ['Bearer ck_a', 'Basic eDp5']) {
      assert.equal(keyOf(['Authorization', value], ['authorization', value]), 'malformed');
    }
    assert.equal(keyOf(['X-API-Key', 'a'], ['X-Api-Key', 'a']), 'malformed');
    assert.equal(keyOf(['Authorization', 'Bearer ck_a, Bearer ck_b']), 'malformed');
  });

  it('is malformed if it is missing in its header', () => {
    for (const value of ['Bearer', 'Bearer ', '', ' ', 'Bearer a b', 'Bearer "a"', 'Bearer\ta', 'Bearer é']) {
      assert.equal(keyOf(['Authorization', value]), 'malformed', JSON.stringify(value));
    }
    assert.equal(keyOf(['X-API-Key', '']), 'malformed');
  });

  it('ignores an Authorization of another scheme', () => {
    assert.equal(keyOf(['Authorization', 'Basic eDp5']), undefined);
    assert.equal(keyOf(['Authorization', 'Negotiate']), undefined);
    assert.equal(keyOf(['Authorization', 'Basic eDp5'], ['X-API-Key', 'ck_a']), 'ck_a');
    assert.equal(keyOf(['Authorization', 'Bearerck_a x']), undefined);
  });

  it('is parsed without an exception, and fast, from any header that Node accepts', () => {
    const name = fc.oneof(fc.constantFrom('Authorization', 'X-API-Key'), fc.string());
    const value = fc.oneof(
      fc.string({ unit: anyCharacter }),
      fc.string().map((text) => `Bearer ${text}`),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(name, value), { maxLength: 6 }), (headers) => {
        const found = keyOf(...headers);
        assert.ok(found === undefined || found === 'malformed' || headers.flat().join('\n').includes(found));
      }),
      { numRuns: rounds(200, 1000) },
    );
    const began = cpuMs();
    keyOf(['Authorization', `Bearer ${'a='.repeat(1_000_000)}`]);
    keyOf(['Authorization', `Bearer${' '.repeat(1_000_000)}`]);
    assert.ok(cpuMs() - began < 500);
  });
});
