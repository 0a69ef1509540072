import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { presentedKey } from '../../../../src/http/access/credentials.ts';

const keyOf = (...headers: [name: string, value: string][]) => presentedKey({ rawHeaders: headers.flat() });

describe('the key that a request shows', () => {
  it('comes by Authorization, its scheme in any case, or by X-API-Key', () => {
    assert.equal(keyOf(['Host', 'x'], ['Authorization', 'Bearer ck_a']), 'ck_a');
    assert.equal(keyOf(['AUTHORIZATION', 'bEARER   ck_a']), 'ck_a');
    assert.equal(keyOf(['x-api-key', 'ck_a'], ['Accept', '*/*']), 'ck_a');
  });

  it('is undefined where there is none', () => {
    assert.equal(keyOf(), undefined);
    assert.equal(keyOf(['X-API-Keys', 'ck_a'], ['Proxy-Authorization', 'Bearer ck_a']), undefined);
  });

  it('may come by both, but must be the same then', () => {
    assert.equal(keyOf(['Authorization', 'Bearer ck_a'], ['X-API-Key', 'ck_a']), 'ck_a');
    assert.equal(keyOf(['Authorization', 'Bearer ck_a'], ['X-API-Key', 'ck_b']), 'malformed');
  });

  it('is malformed in a header that stands twice, though it says the same', () => {
    for (const value of ['Bearer ck_a', 'Basic eDp5']) {
      assert.equal(keyOf(['Authorization', value], ['authorization', value]), 'malformed');
    }
    assert.equal(keyOf(['X-API-Key', 'a'], ['X-Api-Key', 'a']), 'malformed');
    assert.equal(keyOf(['Authorization', 'Bearer ck_a, Bearer ck_b']), 'malformed');
  });

  it('is malformed where there should be one', () => {
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

  it('is looked for without a fault, and fast, in whatever Node lets through', () => {
    const name = fc.oneof(fc.constantFrom('Authorization', 'X-API-Key'), fc.string());
    const value = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.string().map((text) => `Bearer ${text}`),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(name, value), { maxLength: 6 }), (headers) => {
        const found = keyOf(...headers);
        assert.ok(found === undefined || found === 'malformed' || headers.flat().join('\n').includes(found));
      }),
      { numRuns: 1000 },
    );
    const began = performance.now();
    keyOf(['Authorization', `Bearer ${'a='.repeat(1_000_000)}`]);
    keyOf(['Authorization', `Bearer${' '.repeat(1_000_000)}`]);
    assert.ok(performance.now() - began < 500);
  });
});
