import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { Decision, Policy } from '../../../../src/domain/access/limits.ts';
import { rateLimitHeaders, retryAfter } from '../../../../src/http/access/rate-limit-headers.ts';

const REQUESTS: Policy = { name: 'requests', limit: 60, windowSeconds: 60, unit: 'requests' };
const TOKENS: Policy = { name: 'tokens', limit: 1e6, windowSeconds: 86_400, unit: 'tokens' };
const STREAMS: Policy = { name: 'streams', limit: 10, windowSeconds: null, unit: 'concurrent-requests' };

const decision = (policy: Policy, over: Partial<Decision> = {}): Decision => ({
  policy,
  allowed: true,
  remaining: 7,
  resetSeconds: policy.windowSeconds === null ? null : 30,
  ...over,
});

/** A list of strings with integer and string parameters, as RFC 9651 writes it; null for anything else. */
function parseList(text: string) {
  const string = String.raw`"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"`;
  const item = new RegExp(String.raw`^(${string})((?:;[a-z]+=(?:-?\d{1,15}|${string}))*)(?:, |$)`);
  const items: { name: string; parameters: Record<string, number | string> }[] = [];
  for (let rest = text; rest !== ''; ) {
    const match = item.exec(rest);
    if (!match) return null;
    const parameters = [
      ...(match[2] ?? '').matchAll(new RegExp(String.raw`;([a-z]+)=(-?\d+|${string})`, 'g')),
    ];
    items.push({
      name: JSON.parse(match[1] ?? ''),
      parameters: Object.fromEntries(
        parameters.map(([, name = '', value = '']) => [name, JSON.parse(value)]),
      ),
    });
    rest = rest.slice(match[0].length);
  }
  return items;
}

describe('the rate limit headers', () => {
  it('are lists, one item for each policy in the order given', () => {
    assert.deepEqual(rateLimitHeaders([decision(REQUESTS), decision(TOKENS), decision(STREAMS)]), {
      'RateLimit-Policy':
        '"requests";q=60;w=60, "tokens";q=1000000;qu="tokens";w=86400, "streams";q=10;qu="concurrent-requests"',
      RateLimit: '"requests";r=7;t=30, "tokens";r=7;t=30, "streams";r=7',
    });
  });

  it('are left out without a policy', () => {
    assert.deepEqual(rateLimitHeaders([]), {});
  });

  it('are valid structured fields for any numbers and names', () => {
    const name = fc.string();
    const number = fc.oneof(fc.integer(), fc.double({ noNaN: true }), fc.maxSafeNat());
    fc.assert(
      fc.property(name, number, number, (policyName, limit, remaining) => {
        const headers = rateLimitHeaders([decision({ ...REQUESTS, name: policyName, limit }, { remaining })]);
        const [policy] = parseList(headers?.['RateLimit-Policy'] ?? '') ?? [];
        const [state] = parseList(headers?.RateLimit ?? '') ?? [];
        assert.equal(policy?.name, policyName);
        assert.equal(state?.name, policyName);
        const q = Number(policy?.parameters.q);
        assert.ok(Number.isInteger(q) && q >= 0 && q <= 999_999_999_999_999);
        assert.ok(Number(state?.parameters.r) >= 0);
      }),
    );
    assert.throws(() => rateLimitHeaders([decision({ ...REQUESTS, name: 'é' })]), RangeError);
  });

  it('have a Retry-After after the windows of all policies that rejected', () => {
    const refused = { allowed: false, remaining: 0 };
    const all = [
      decision(REQUESTS, refused),
      decision(TOKENS, { resetSeconds: 4000 }),
      decision(STREAMS, refused),
    ];
    assert.equal(retryAfter(all), 30);
    assert.equal(retryAfter([decision(STREAMS, refused)]), 1);
    assert.equal(retryAfter([decision(REQUESTS, { ...refused, resetSeconds: 0 })]), 1);
  });
});
