import assert from 'node:assert/strict';
import { it } from 'node:test';
import { securityHeaderValues } from '../../../../src/http/middleware/security.ts';

const PLAIN = {
  'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'cross-origin',
  'origin-agent-cluster': '?1',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-dns-prefetch-control': 'off',
  'x-download-options': 'noopen',
  'x-frame-options': 'DENY',
  'x-permitted-cross-domain-policies': 'none',
  'x-xss-protection': '0',
};

it('one call of helmet sets all security headers', () => {
  assert.deepEqual(Object.fromEntries(securityHeaderValues(false)), PLAIN);
});

it('HSTS is set for TLS only', () => {
  assert.deepEqual(Object.fromEntries(securityHeaderValues(true)), {
    ...PLAIN,
    'strict-transport-security': 'max-age=31536000; includeSubDomains',
  });
});
