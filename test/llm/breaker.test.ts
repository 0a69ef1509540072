import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, type TestContext, test } from 'node:test';
import { AppError } from '../../src/domain/errors.ts';
import type { Log } from '../../src/domain/runtime.ts';
import { CircuitBreaker, CircuitBreakers } from '../../src/llm/breaker.ts';
import { UpstreamError } from '../../src/llm/errors.ts';
import type { ModelOptions } from '../../src/llm/model.ts';
import {
  createGate,
  delta,
  done,
  endWithoutFinish,
  finish,
  type Handler,
  hang,
  headersThenSilence,
  json,
  reply,
  resetAtOnce,
  role,
  script,
  status,
  thenErrorObject,
  thenGarbage,
  thenReset,
  wait,
} from '../support/fake-upstream.ts';
import { silentLog } from '../support/fakes.ts';
import { HELLO, never, type Setup, setUp, startStream } from './setup.ts';

const MIN_CALLS = 10;

type Way = (model: Setup['model'], signal?: AbortSignal) => Promise<unknown>;
const complete: Way = (model, signal = never()) => model.complete(HELLO, signal);
const stream: Way = (model, signal = never()) => startStream(model, signal).outcome;

const failed = (): Promise<never> => Promise.reject(new UpstreamError('upstream_error', { status: 500 }));
const fine = async (): Promise<string> => 'fine';
const isBusy = (error: unknown): boolean => error instanceof AppError && error.code === 'upstream_busy';

/** A breaker with a clock of its own. It stays open for 7 s, its window is 10 s long. */
function withOwnClock() {
  let now = 0;
  const lines: string[] = [];
  const write = (level: string) => (_fields: object, message: string) =>
    void lines.push(`${level} ${message}`);
  const log: Log = { info: write('info'), warn: write('warn'), error: write('error') };
  const breaker = new CircuitBreaker('m', log, { openMinMs: 7000, openMaxMs: 7000, now: () => now });
  const call = (work: (started: () => void) => Promise<unknown>, signal = never()) =>
    breaker.guard(signal, work);
  return {
    lines,
    call,
    /** Whether the call was admitted, whatever its result. */
    async passes(work: (started: () => void) => Promise<unknown> = fine): Promise<boolean> {
      let ran = false;
      await call((started) => {
        ran = true;
        return work(started);
      }).catch(() => {});
      return ran;
    },
    async fail(times: number): Promise<void> {
      for (; times > 0; times--) await assert.rejects(call(failed));
    },
    pass: (ms: number) => {
      now += ms;
    },
  };
}

describe('the circuit breaker', () => {
  test('opens when half of ten calls failed, and not before ten', async () => {
    const { call, fail, passes } = withOwnClock();
    for (let i = 0; i < 5; i++) await call(fine);
    await fail(4);
    assert.equal(await passes(failed), true);
    assert.equal(await passes(), false);
  });

  test('stays closed while less than half of many calls fail', async () => {
    const { call, fail, passes } = withOwnClock();
    for (let i = 0; i < 40; i++) {
      await call(fine);
      await call(fine);
      await fail(1);
    }
    assert.equal(await passes(), true);
  });

  test('ignores results older than its window', async () => {
    const { fail, passes, pass } = withOwnClock();
    await fail(9);
    pass(10_000);
    await fail(9);
    assert.equal(await passes(), true);
    await fail(1);
    assert.equal(await passes(), false);
  });

  test('counts a failure when it happens, not when its call began', async () => {
    const { call, passes, pass } = withOwnClock();
    const late = Promise.withResolvers<void>();
    const slow = Array.from({ length: MIN_CALLS }, () => call(() => late.promise.then(failed)));
    pass(30_000);
    late.resolve();
    await Promise.allSettled(slow);
    assert.equal(await passes(), false);
  });

  test('admits one probe when its time is over; a good one closes it and resets the counts', async () => {
    const { call, fail, passes, pass, lines } = withOwnClock();
    await fail(MIN_CALLS);
    pass(6999);
    assert.equal(await passes(), false);
    pass(1);
    const token = Promise.withResolvers<void>();
    const probe = call(() => token.promise);
    assert.deepEqual([await passes(), await passes()], [false, false]);
    token.resolve();
    await probe;
    assert.equal(await passes(), true);
    await fail(MIN_CALLS - 2);
    assert.equal(await passes(), true);
    assert.deepEqual(lines, ['warn circuit breaker opened', 'info circuit breaker closed']);
  });

  test('opens again when the probe fails, without another log line', async () => {
    const { fail, passes, pass, lines } = withOwnClock();
    await fail(MIN_CALLS);
    for (let outage = 0; outage < 3; outage++) {
      pass(7000);
      assert.equal(await passes(failed), true);
      assert.equal(await passes(), false);
      pass(6999);
      assert.equal(await passes(), false);
      pass(1);
      assert.equal(await passes(failed), true);
    }
    pass(7000);
    assert.equal(await passes(), true);
    assert.equal(lines.length, 2);
  });

  test('probes with the next call when the caller of the first probe leaves', async () => {
    const { call, fail, passes, pass } = withOwnClock();
    await fail(MIN_CALLS);
    pass(7000);
    await assert.rejects(call(() => Promise.reject(new Error('the caller left'))));
    assert.equal(await passes(failed), true);
    assert.equal(await passes(), false);
  });

  test('is closed by the first token of a probe, before the end of its reply', async () => {
    const { call, fail, passes, pass } = withOwnClock();
    await fail(MIN_CALLS);
    pass(7000);
    const end = Promise.withResolvers<void>();
    let first = () => {};
    const probe = call((started) => {
      first = started;
      return end.promise;
    });
    assert.equal(await passes(), false);
    first();
    await new Promise(setImmediate);
    assert.equal(await passes(), true);
    end.resolve();
    await probe;
  });

  test('ignores the results of calls that began before it opened', async () => {
    const { call, fail, passes, pass } = withOwnClock();
    const [well, badly] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const old = [call(() => well.promise), call(() => badly.promise.then(failed))];
    await fail(MIN_CALLS);
    pass(7000);
    well.resolve();
    badly.resolve();
    await Promise.allSettled(old);
    const token = Promise.withResolvers<void>();
    const probe = call(() => token.promise);
    assert.equal(await passes(), false);
    token.resolve();
    await probe;
    assert.equal(await passes(), true);
  });

  test('counts neither callers who leave nor errors after the first token', async () => {
    const { call, passes, fail } = withOwnClock();
    for (let i = 0; i < 50; i++) {
      await assert.rejects(call(() => Promise.reject(new Error('the caller left'))));
    }
    await fail(MIN_CALLS - 1);
    const late = (started: () => void) => {
      started();
      return failed();
    };
    for (let i = 0; i < MIN_CALLS; i++) assert.equal(await passes(late), true);
    assert.equal(await passes(), true);
  });

  test('does not limit concurrent calls', async () => {
    const { call, passes } = withOwnClock();
    const end = Promise.withResolvers<void>();
    let running = 0;
    const calls = Array.from({ length: 2000 }, () =>
      call(() => {
        running += 1;
        return end.promise;
      }),
    );
    assert.equal(running, 2000);
    assert.equal(await passes(), true);
    end.resolve();
    await Promise.all(calls);
  });
});

describe('the circuits of a model server', () => {
  test('are one per model, and say which are open', async () => {
    const circuits = new CircuitBreakers(silentLog);
    for (let i = 0; i < MIN_CALLS; i++) await assert.rejects(circuits.guard('broken', never(), failed));
    await assert.rejects(circuits.guard('broken', never(), fine), isBusy);
    assert.equal(await circuits.guard('good', never(), fine), 'fine');
    assert.deepEqual(circuits.open, ['broken']);
  });

  test('are bounded, and those in use stay', async () => {
    const circuits = new CircuitBreakers(silentLog);
    for (let i = 0; i < MIN_CALLS; i++) await assert.rejects(circuits.guard('broken', never(), failed));
    for (let name = 0; name < 1000; name++) {
      for (let i = 0; i < MIN_CALLS; i++) await assert.rejects(circuits.guard(`${name}`, never(), failed));
      if (name % 400 === 0) await assert.rejects(circuits.guard('broken', never(), fine), isBusy);
    }
    assert.equal(circuits.open.length, 500);
    assert.equal(circuits.open.includes('broken'), true);
  });
});

describe('a model server', () => {
  const OPEN_LONG = { maxRetries: 0, breaker: { openMinMs: 60_000, openMaxMs: 60_000 } };
  const SHORT = { firstTokenTimeoutMs: 20, timeoutMs: 20 };

  type Case = readonly [name: string, handler: Handler, ways: readonly Way[], options?: object];

  const BROKEN: readonly Case[] = [
    ['resets its connections', resetAtOnce(), [complete, stream]],
    ['responds with 500', status(500), [complete, stream]],
    ['responds with 503', status(503), [complete, stream]],
    ['never responds', hang(), [complete, stream], SHORT],
    ['sends a head and no token', headersThenSilence(), [stream], SHORT],
  ];

  const WORKING: readonly Case[] = [
    ...[400, 401, 404, 408, 422, 429].map(
      (code): Case => [`responds with ${code}`, status(code), [complete, stream]],
    ),
    ['sends garbage', thenGarbage(), [stream]],
    ['sends garbage', status(200, {}, '<p>Welcome'), [complete]],
    ['sends an error in place of a token', thenErrorObject(), [stream]],
    ['sends an error in place of a reply', json({ error: { code: 500 } }), [complete]],
    ['ends before the first token', endWithoutFinish(), [stream]],
    ['breaks off after the first token', thenReset('one'), [stream]],
    ['sends garbage after the first token', thenGarbage('one'), [stream]],
    ['replies with no text', script(role(), finish(), done()), [stream]],
    [
      'replies with no text',
      json({ choices: [{ message: { content: '' }, finish_reason: 'stop' }] }),
      [complete],
    ],
  ];

  async function failTenTimes(t: TestContext, [, handler, , more]: Case, way: Way) {
    const setup = await setUp(t, { ...OPEN_LONG, ...more });
    setup.upstream.respond(handler);
    for (let i = 0; i < MIN_CALLS; i++) await assert.rejects(way(setup.model));
    setup.upstream.respond(reply('well'));
    return setup;
  }

  for (const broken of BROKEN) {
    for (const way of broken[2]) {
      const name = way === stream ? 'streamed' : 'whole';
      test(`that ${broken[0]} is not called after ten ${name} replies`, async (t) => {
        const { model, upstream, lines } = await failTenTimes(t, broken, way);
        await assert.rejects(
          way(model),
          (error: AppError) => isBusy(error) && error.retryAfter !== undefined && error.retryAfter >= 59,
        );
        // Requests that timed out early may not have arrived.
        assert.ok(upstream.requests.length <= MIN_CALLS);
        assert.equal(lines.filter(({ message }) => /opened/.test(message)).length, 1);
      });
    }
  }

  for (const working of WORKING) {
    for (const way of working[2]) {
      const name = way === stream ? 'streamed' : 'whole';
      test(`that ${working[0]} is still called after ten ${name} replies`, async (t) => {
        const { model, upstream } = await failTenTimes(t, working, way);
        await complete(model);
        assert.equal(upstream.requests.length, MIN_CALLS + 1);
      });
    }
  }

  test('that refuses connections is not called', async (t) => {
    const { model, upstream } = await setUp(t, OPEN_LONG);
    await upstream.close();
    for (let i = 0; i < MIN_CALLS; i++) await assert.rejects(stream(model), { code: 'upstream_error' });
    await assert.rejects(stream(model), isBusy);
  });

  test('whose callers leave is still called', async (t) => {
    const { model, upstream } = await setUp(t, OPEN_LONG);
    upstream.respond(hang());
    for (let i = 0; i < 2 * MIN_CALLS; i++) {
      const controller = new AbortController();
      const outcome = stream(model, controller.signal);
      await upstream.waitForRequest(i + 1);
      controller.abort('left');
      await assert.rejects(outcome, (error) => error === 'left');
    }
    upstream.respond(reply('well'));
    await stream(model);
  });

  test('is not called again when the circuit opens between retries', async (t) => {
    const { model, upstream } = await setUp(t, { ...OPEN_LONG, maxRetries: 2 });
    upstream.respond(status(500));
    for (let i = 0; i < 3; i++) await assert.rejects(stream(model), { code: 'upstream_error' });
    await assert.rejects(stream(model), isBusy);
    assert.equal(upstream.requests.length, MIN_CALLS);
  });

  test('is not called for five to ten seconds, a random time', async (t) => {
    const waits = new Set<number>();
    for (let i = 0; i < 5; i++) {
      const { model, upstream, lines } = await setUp(t, { maxRetries: 0 });
      await upstream.close();
      for (let call = 0; call < MIN_CALLS; call++) await assert.rejects(stream(model));
      const fields = lines.find(({ message }) => /opened/.test(message))?.fields ?? {};
      const wait = 'retry_in_ms' in fields ? Number(fields.retry_in_ms) : 0;
      assert.ok(wait >= 5000 && wait <= 10_000, `${wait}`);
      waits.add(wait);
      await assert.rejects(stream(model), ({ retryAfter = 0 }: AppError) => retryAfter * 1000 >= wait - 1000);
    }
    assert.ok(waits.size > 1);
  });

  test('that works again serves as before, after one probe', async (t) => {
    const { model, upstream, lines } = await setUp(t, {
      maxRetries: 0,
      breaker: { openMinMs: 30, openMaxMs: 60 },
    });
    upstream.respond(status(500));
    for (let i = 0; i < MIN_CALLS; i++) await assert.rejects(stream(model));
    const gate = createGate();
    upstream.respond(script(wait(gate), delta('well'), finish(), done()));
    const calls: Promise<unknown>[] = [];
    const waiting = upstream.waitForRequest(MIN_CALLS + 1);
    const asking = setInterval(() => {
      const call = stream(model);
      call.catch(() => {});
      calls.push(call);
    }, 2);
    await waiting;
    const busy = await Promise.allSettled(Array.from({ length: 20 }, () => stream(model)));
    clearInterval(asking);
    assert.ok(busy.every((result) => result.status === 'rejected' && isBusy(result.reason)));
    assert.equal(upstream.requests.length, MIN_CALLS + 1);
    gate.open();
    const results = await Promise.allSettled(calls);
    assert.equal(results.filter(({ status: end }) => end === 'fulfilled').length, 1);
    await Promise.all(Array.from({ length: 20 }, () => stream(model)));
    assert.equal(lines.filter(({ level }) => level === 'info').length, 1);
  });

  test('that streams two hundred replies at the same time streams them all', async (t) => {
    const { model, upstream } = await setUp(t);
    const gate = createGate();
    upstream.respond(script(delta('first'), wait(gate), delta(' last'), finish(), done()));
    const all = Promise.withResolvers<void>();
    let started = 0;
    const streams = Array.from({ length: 200 }, () =>
      startStream(model, never(), (text) => {
        if (text === 'first' && ++started === 200) all.resolve();
      }),
    );
    await all.promise;
    gate.open();
    await Promise.all(streams.map(({ outcome }) => outcome));
    assert.ok(streams.every(({ deltas }) => deltas.join('') === 'first last'));
  });
});

test('a model that was not closed does not keep its process alive, not even with an open circuit', async () => {
  const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  const source = `
    import { createChatModel } from ${url('../../src/llm/model.ts')};
    const options = ${JSON.stringify({
      apiKey: 'none',
      baseUrl: 'http://127.0.0.1:1/v1',
      headers: {},
      timeoutMs: 5000,
      firstTokenTimeoutMs: 5000,
      idleTimeoutMs: 5000,
      maxRetries: 0,
      refused: [],
      replyMaxBytes: 1000,
      replyMaxMs: 5000,
      logErrors: true,
      reasoningTags: true,
      breaker: { openMinMs: 600_000, openMaxMs: 600_000, windowMs: 600_000 },
    } satisfies ModelOptions)};
    const say = (fields, message) => console.log(message);
    const model = createChatModel(options, { info: say, warn: say, error: say });
    const request = { model: 'm', messages: [{ role: 'user', content: 'hello' }], parameters: {} };
    for (let i = 0; i < 11; i++) await model.complete(request, new AbortController().signal).catch(() => {});`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 30_000,
  });
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  const [code] = await once(child, 'close');
  assert.equal(code, 0);
  assert.match(output, /opened/);
});
