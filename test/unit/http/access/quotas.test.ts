import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, it } from 'node:test';
import type { Request, Response } from 'express';
import { AppError } from '../../../../src/domain/errors.ts';
import type { Decision, PermitPool, Policy, RateLimiter } from '../../../../src/domain/limits.ts';
import { Quotas } from '../../../../src/http/access/quotas.ts';
import type { Quota, Route } from '../../../../src/http/route.ts';

const SETTINGS = {
  requestsPerMinute: 2,
  openStreams: 2,
  tokensPerDay: 100,
  exportsPerHour: 2,
  authFailuresPerMinute: 2,
};

/** A response of which only what is asked for is there. */
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

interface Setup {
  /** The names of policies that are reached. */
  readonly full?: readonly string[];
  /** Whether others are asked first. */
  readonly slow?: boolean;
}

function start({ full = [], slow = false }: Setup = {}) {
  const log: string[] = [];
  const decide = (policy: Policy, verb: string): Decision => {
    log.push(`${verb} ${policy.name}`);
    const allowed = !full.includes(policy.name);
    return { policy, allowed, remaining: allowed ? 1 : 0, resetSeconds: policy.windowSeconds };
  };
  const maybeLater = <T>(value: T): T | Promise<T> => (slow ? Promise.resolve(value) : value);
  const limiter: RateLimiter = {
    take: (policy, _subject, cost = 1) => maybeLater(decide(policy, `take ${cost}`)),
    peek: (policy) => decide(policy, 'peek'),
    charge: (policy, subject, cost) => void log.push(`charge ${cost} ${policy.name} ${subject}`),
  };
  const concurrency: PermitPool = {
    acquire: (policy) =>
      maybeLater({ ...decide(policy, 'open'), release: () => void log.push(`release ${policy.name}`) }),
  };
  const quotas = new Quotas(SETTINGS, { limiter, concurrency });
  const response = new FakeResponse();
  const admit = (uses: readonly Quota[], method = 'POST') => {
    const route: Route = { method: 'post', path: '/', access: 'chat', quotas: uses, handle() {} };
    return quotas.admit(route, { method } as Request, response as unknown as Response, 'a');
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
  it('ask one policy after the other, at once where they can, and tell them all', () => {
    const { log, response, admit } = start();
    assert.equal(admit(['tokens', 'streams']), undefined);
    assert.deepEqual(log, ['take 1 requests', 'take 0 tokens', 'open streams']);
    assert.equal(
      response.headers.get('RateLimit'),
      '"requests";r=1;t=60, "tokens";r=1;t=86400, "streams";r=1',
    );
    response.close();
    assert.deepEqual(log.slice(3), ['release streams']);
  });

  for (const slow of [false, true]) {
    const when = slow ? 'after others were asked' : 'at once';
    it(`use up nothing of a policy when one before it refuses, ${when}`, async () => {
      const { log, response, admit } = start({ slow, full: ['requests'] });
      await assert.rejects(async () => admit(['exports']), refusal('requests'));
      assert.deepEqual(log, ['take 1 requests', 'peek exports']);
      assert.equal(response.headers.size, 0, 'the error has the headers');
      const other = start({ slow, full: ['tokens'] });
      await assert.rejects(async () => other.admit(['tokens', 'streams']), refusal('tokens'));
      assert.deepEqual(other.log, ['take 1 requests', 'take 0 tokens']);
    });
  }

  it('give the place of a stream back at once when its caller left while others were asked', async () => {
    const { log, response, admit } = start({ slow: true });
    const waiting = admit(['streams']);
    response.close();
    await waiting;
    assert.deepEqual(log, ['take 1 requests', 'open streams', 'release streams']);
    assert.equal(response.listenerCount('close'), 0);
  });

  it('take HEAD for no export', () => {
    const { log, admit } = start();
    void admit(['exports'], 'HEAD');
    void admit(['exports'], 'GET');
    assert.deepEqual(log, ['take 1 requests', 'take 1 requests', 'take 1 exports']);
  });
});
