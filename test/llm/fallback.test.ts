import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import type { Upstream } from '../../src/domain/chat/model.ts';
import { AppError } from '../../src/domain/errors.ts';
import type { CircuitState } from '../../src/domain/metrics.ts';
import { withFallback } from '../../src/llm/fallback.ts';
import type { ModelOptions, OpenedModel } from '../../src/llm/model.ts';
import {
  chunk,
  done,
  finish,
  type Handler,
  hang,
  headersThenSilence,
  raw,
  reply,
  resetAtOnce,
  script,
  status,
  thenReset,
  wait,
} from '../support/fake-upstream.ts';
import { silentLog } from '../support/fakes.ts';
import { HELLO, never, setUp } from './setup.ts';

const FIRST_TOKEN_MS = 1000;
const isCode = (code: string) => (error: unknown) => error instanceof AppError && error.code === code;

/** @param name the model at the fallback; undefined: the same */
async function pair(t: TestContext, options: Partial<ModelOptions> = {}, name?: string) {
  const first = await setUp(t, { maxRetries: 1, timeoutMs: FIRST_TOKEN_MS, ...options });
  const second = await setUp(t, { maxRetries: 0, ...(options.breaker && { breaker: options.breaker }) });
  const codes: string[] = [];
  const limits = { model: name, firstTokenTimeoutMs: FIRST_TOKEN_MS };
  const metrics = { fallbackCalled: (code: string) => void codes.push(code) };
  const model = withFallback(first.model, second.model, limits, silentLog, metrics);
  const ways = {
    async complete(signal = never()) {
      const { content, upstream, model: name } = await model.complete(HELLO, signal);
      return { content, upstream, model: name, known: upstream };
    },
    async stream(signal = never()) {
      let content = '';
      let known: Upstream | undefined;
      const on = {
        content(text: string) {
          content += text;
        },
        reasoning() {},
      };
      const answersFrom = (upstream: Upstream) => {
        known = upstream;
      };
      const outcome = await model.stream(HELLO, on, signal, { answersFrom });
      return { content, upstream: outcome.upstream, model: outcome.model, known };
    },
  };
  return { first: first.upstream, second: second.upstream, ways, codes };
}

const FAULTS: Record<string, readonly Handler[]> = {
  'is out of retries': [status(500), status(500)],
  'resets its connections': [resetAtOnce(), resetAtOnce()],
  'rejects the key': [status(401)],
  'has no such model': [status(404)],
  'is busy': [status(429), status(429)],
  'never responds': [hang(), hang()],
  'responds without a token': [headersThenSilence(), headersThenSilence()],
};

for (const way of ['complete', 'stream'] as const) {
  describe(`a call to ${way} goes to the fallback when the first model server`, { concurrency: 4 }, () => {
    for (const [name, handlers] of Object.entries(FAULTS)) {
      test(name, async (t) => {
        const { first, second, ways, codes } = await pair(t, {}, 'other-model');
        first.respond([...handlers]);
        second.respond([reply('from the second')]);
        const { content, upstream, known } = await ways[way]();
        assert.deepEqual([content, upstream, known], ['from the second', 'fallback', 'fallback']);
        assert.equal(second.requests.length, 1);
        assert.deepEqual(
          second.requests.map(({ body }) => body?.model),
          ['other-model'],
        );
        assert.equal(codes.length, 1);
      });
    }

    for (const [why, handler] of [['errors', status(500)] as const, ['silence', hang()] as const]) {
      test(`has an open circuit because of ${why}`, async (t) => {
        const { first, second, ways } = await pair(t, { maxRetries: 0, breaker: { minCalls: 2 } });
        first.respond([handler, handler, handler]);
        for (let n = 0; n < 4; n += 1) assert.equal((await ways[way]()).upstream, 'fallback');
        assert.equal(first.requests.length, 2);
        assert.equal(second.requests.length, 4);
        // The circuit of the same model at the other server is its own.
        assert.deepEqual(new Set(second.requests.map(({ body }) => body.model)), new Set([HELLO.model]));
        second.respond([status(500), status(500), status(500), status(500)]);
        for (let n = 0; n < 4; n += 1) await assert.rejects(ways[way](), isCode('upstream_error'));
        await assert.rejects(ways[way](), isCode('upstream_busy'));
        assert.equal(second.requests.length, 8);
      });
    }

    test('hangs, and is aborted there too', async (t) => {
      const { first, second, ways } = await pair(t);
      first.respond([status(401)]);
      second.respond([hang()]);
      const caller = new AbortController();
      const calling = ways[way](caller.signal);
      await second.waitForRequest(1);
      caller.abort(new Error('left'));
      await assert.rejects(calling, /left/);
      await second.waitForClosed(1);
    });
  });

  describe(`a call to ${way} stays with the first model server when it`, () => {
    test('replies', async (t) => {
      const { second, ways } = await pair(t);
      const { content, upstream, known } = await ways[way]();
      assert.deepEqual([content, upstream, known], ['echo: hello', 'primary', 'primary']);
      assert.equal(second.requests.length, 0);
    });

    test('is aborted by the caller', async (t) => {
      const { first, second, ways } = await pair(t);
      first.respond([hang()]);
      const caller = new AbortController();
      const calling = ways[way](caller.signal);
      await first.waitForRequest(1);
      caller.abort(new Error('left'));
      await assert.rejects(calling, /left/);
      await first.waitForClosed(1);
      assert.equal(second.requests.length, 0);
    });

    for (const code of [400, 422]) {
      test(`rejects the request with ${code}`, async (t) => {
        const { first, second, ways } = await pair(t);
        first.respond([status(code)]);
        await assert.rejects(ways[way](), isCode('upstream_rejected'));
        assert.equal(second.requests.length, 0);
      });
    }
  });
}

test('a stream that breaks after its first token does not go to the fallback', async (t) => {
  const { first, second, ways } = await pair(t);
  first.respond([thenReset('half')]);
  await assert.rejects(ways.stream(), isCode('upstream_incomplete'));
  assert.equal(second.requests.length, 0);
});

test('a stream that begins with a slow tool call does not go to the fallback', async (t) => {
  const { first, second, ways } = await pair(t);
  const call = (part: object) => raw(chunk({ tool_calls: [{ index: 0, ...part }] }));
  const begin = call({ id: 'c1', type: 'function', function: { name: 'sum', arguments: '{"a":' } });
  const slow = [begin, wait(FIRST_TOKEN_MS + 100), call({ function: { arguments: '1}' } })];
  first.respond([script(...slow, finish('tool_calls'), done())]);
  const { upstream, known } = await ways.stream();
  assert.deepEqual([upstream, known, second.requests.length], ['primary', 'primary', 0]);
});

test('a circuit that is open at either model server is shown as open', () => {
  const withStates = (...states: [string, CircuitState][]) =>
    ({ circuits: () => states }) as unknown as OpenedModel;
  const first = withStates(['a', 'open'], ['b', 'closed'], ['c', 'half_open'], ['d', 'closed']);
  const second = withStates(['a', 'half_open'], ['b', 'open'], ['c', 'closed'], ['e', 'closed']);
  const model = withFallback(first, second, { model: undefined, firstTokenTimeoutMs: 1 }, silentLog);
  const expected = { a: 'open', b: 'open', c: 'half_open', d: 'closed', e: 'closed' };
  assert.deepEqual(Object.fromEntries(model.circuits()), expected);
});

test('the error of the fallback is the error of the call', async (t) => {
  const { first, second, ways } = await pair(t);
  first.respond([status(401)]);
  second.respond([status(503)]);
  await assert.rejects(ways.complete(), isCode('upstream_busy'));
});
