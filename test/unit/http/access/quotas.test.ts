import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, it } from 'node:test';
import type { Request, Response } from 'express';
import type { ApiKey, KeyLimits } from '../../../../src/domain/access/api-keys.ts';
import type { Decision, PermitPool, Policy, RateLimiter } from '../../../../src/domain/access/limits.ts';
import { AppError } from '../../../../src/domain/errors.ts';
import { anonymousCaller } from '../../../../src/http/access/caller.ts';
import { Quotas } from '../../../../src/http/access/quotas.ts';
import type { Quota, Route } from '../../../../src/http/route.ts';

const SETTINGS = {
  requestsPerMinute: 2,
  openStreams: 2,
  tokensPerDay: 100,
  exportsPerHour: 2,
  authFailuresPerMinute: 2,
};

/** The parts of a response that quotas use. */
class FakeResponse extends EventEmitter {
  closed = false;
  readonly headers = new Map<string, string>();

  setHeader(name: string, value: string): void {
    this.headers.set(name, value);
  }

  close(): void {
    this.closed = true;
    this.emit('close');
  }
}

/**
 * @param full the names of policies whose limit is reached
 * @param limits of the caller's key
 */
function start(full: readonly string[] = [], limits?: KeyLimits) {
  const log: string[] = [];
  const decide = (policy: Policy, verb: string): Decision => {
    log.push(`${verb} ${policy.name}`);
    const allowed = !full.includes(policy.name);
    return { policy, allowed, remaining: allowed ? 1 : 0, resetSeconds: policy.windowSeconds };
  };
  const limiter: RateLimiter = {
    take: async (policy) => decide(policy, 'take'),
    check: async (policy) => decide(policy, 'check'),
    charge: (policy, subject, cost) => void log.push(`charge ${cost} ${policy.name} ${subject}`),
  };
  const permits: PermitPool = {
    acquire: (policy) => ({
      ...decide(policy, 'open'),
      release: () => void log.push(`release ${policy.name}`),
    }),
  };
  const quotas = new Quotas(SETTINGS, limiter, permits, {
    rateLimited: (name) => void log.push(`limited ${name}`),
  });
  const response = new FakeResponse();
  const key = { limits } as ApiKey;
  const caller = { ...anonymousCaller('a'), ...(limits && { key }) };
  const admit = (uses: readonly Quota[], method = 'POST') => {
    const route: Route = { method: 'post', path: '/', access: 'chat', quotas: uses, handle() {} };
    return quotas.admit(route, { method } as Request, response as unknown as Response, caller);
  };
  return { log, response, admit };
}

const refusal = (name: string) => (error: unknown) => {
  assert.ok(error instanceof AppError);
  assert.equal(error.code, 'rate_limited');
  assert.match(error.message, new RegExp(`"${name}"`));
  return true;
};

describe('quotas', () => {
  it('ask one policy after the other, and report all of them', async () => {
    const { log, response, admit } = start();
    await admit(['tokens', 'streams']);
    assert.deepEqual(log, ['take requests', 'check tokens', 'open streams']);
    assert.equal(
      response.headers.get('RateLimit'),
      '"requests";r=1;t=60, "tokens";r=1;t=86400, "streams";r=1',
    );
    response.close();
    assert.deepEqual(log.slice(3), ['release streams']);
  });

  it('use nothing of a policy when an earlier one rejects', async () => {
    const { log, response, admit } = start(['requests']);
    await assert.rejects(admit(['exports']), refusal('requests'));
    assert.deepEqual(log, ['take requests', 'check exports', 'limited requests']);
    assert.equal(response.headers.size, 0, 'the error has the headers');
    const other = start(['tokens']);
    await assert.rejects(other.admit(['tokens', 'streams']), refusal('tokens'));
    assert.deepEqual(other.log, ['take requests', 'check tokens', 'limited tokens']);
  });

  it('release the permit of a stream immediately if the client has disconnected', async () => {
    const { log, response, admit } = start();
    const waiting = admit(['streams']);
    response.close();
    await waiting;
    assert.deepEqual(log, ['take requests', 'open streams', 'release streams']);
    assert.equal(response.listenerCount('close'), 0);
  });

  it('use the limits of the key instead of those of the server', async () => {
    for (const [limits, policies] of [
      [
        { requestsPerMinute: 600, openStreams: null },
        '"requests";q=600;w=60, "streams";q=2;qu="concurrent-requests"',
      ],
      [
        { requestsPerMinute: null, openStreams: 5 },
        '"requests";q=2;w=60, "streams";q=5;qu="concurrent-requests"',
      ],
      [{ requestsPerMinute: 0, openStreams: 1 }, '"streams";q=1;qu="concurrent-requests"'],
      [{ requestsPerMinute: 0, openStreams: 0 }, undefined],
    ] as const) {
      const { response, admit } = start([], limits);
      await admit(['streams']);
      assert.equal(response.headers.get('RateLimit-Policy'), policies);
    }
  });

  it('count no export for HEAD', async () => {
    const { log, admit } = start();
    await admit(['exports'], 'HEAD');
    await admit(['exports'], 'GET');
    assert.deepEqual(log, ['take requests', 'take requests', 'take exports']);
  });
});
