import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ModelOptions } from '../../src/llm/model.ts';
import {
  arrive,
  flood,
  type Handler,
  hang,
  json,
  reply,
  reset,
  type Step,
  status,
} from '../support/fake-upstream.ts';
import { HELLO, never, setUp } from './setup.ts';

const message = (content: unknown, finish_reason: unknown = 'stop', more: object = {}) =>
  json({ choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason }], ...more });

/** A 200 response with a JSON content type, followed by these steps. */
const begun =
  (...steps: readonly Step[]): Handler =>
  async (exchange) => {
    exchange.response.writeHead(200, { 'content-type': 'application/json' });
    exchange.response.flushHeaders();
    for (const step of steps) await step(exchange);
  };

test('a whole reply comes with its reason, token counts and the model’s own name', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(reply('Hello 世界 😀!'));
  assert.deepEqual(await model.complete(HELLO, never()), {
    content: 'Hello 世界 😀!',
    finishReason: 'stop',
    usage: { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 },
    model: 'fake-model',
    truncated: false,
  });
  assert.equal(upstream.requests[0]?.body.stream, false);
});

test('a lone surrogate becomes U+FFFD, tool calls count as stop, invalid names and counts are left out', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(message('a\ud83d', 'tool_calls', { model: 17, usage: { prompt_tokens: 'many' } }));
  assert.deepEqual(await model.complete(HELLO, never()), {
    content: 'a\ufffd',
    finishReason: 'stop',
    usage: null,
    model: HELLO.model,
    truncated: false,
  });
});

test('a reply over the limit is cut between two characters and marked', async (t) => {
  const { model, upstream } = await setUp(t, { replyMaxBytes: 10 });
  upstream.respond(message('世世世世'));
  const { content, finishReason, truncated } = await model.complete(HELLO, never());
  assert.deepEqual([content, finishReason, truncated], ['世世世', 'length', true]);
});

for (const reason of [null, 'abort']) {
  test(`a whole response with the finish_reason ${reason} is delivered as not whole, and logged`, async (t) => {
    const { model, upstream, lines } = await setUp(t);
    upstream.respond(message('all of it', reason));
    const { content, finishReason, truncated } = await model.complete(HELLO, never());
    assert.deepEqual([content, finishReason, truncated], ['all of it', 'error', true]);
    assert.deepEqual(
      lines.map((line) => line.message),
      ['upstream reply incomplete'],
    );
    assert.equal(upstream.requests.length, 1);
  });
}

test('an empty reply of the content filter is a reply', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(message(null, 'content_filter'));
  const { content, finishReason } = await model.complete(HELLO, never());
  assert.deepEqual([content, finishReason], ['', 'content_filter']);
});

const ERRORS: readonly [name: string, handler: Handler, code: string, options?: Partial<ModelOptions>][] = [
  ['silence', hang(), 'upstream_timeout', { timeoutMs: 250 }],
  ['silence after the headers', begun(hang()), 'upstream_timeout', { timeoutMs: 250 }],
  [
    'a reset in the body',
    begun(({ response }) => void response.write('{"ch'), arrive(), reset()),
    'upstream_incomplete',
  ],
  ['no choices', json({ choices: [] }), 'upstream_empty'],
  ['no content', message(''), 'upstream_empty'],
  ['an error object', json({ error: { message: 'says no' } }), 'upstream_error'],
  ['garbage', status(200, {}, '<p>Welcome'), 'upstream_error'],
  [
    'an endless body',
    begun(flood('x'.repeat(65_536), Number.POSITIVE_INFINITY)),
    'upstream_error',
    { replyMaxBytes: 1000 },
  ],
];

for (const [name, handler, code, options] of ERRORS) {
  test(`${name}: ${code}, once`, async (t) => {
    const { model, upstream, lines } = await setUp(t, options);
    upstream.respond(handler);
    await assert.rejects(model.complete(HELLO, never()), { name: 'AppError', code });
    assert.equal(upstream.requests.length, 1);
    assert.equal(lines.length, 1);
    assert.doesNotMatch(JSON.stringify(lines), /Welcome/);
    if (code === 'upstream_timeout' || name === 'an endless body') await upstream.waitForClosed(1);
  });
}

test('an abort closes the upstream connection and rejects with its reason', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond([hang(), begun(hang())]);
  for (let n = 1; n <= 2; n++) {
    const controller = new AbortController();
    const outcome = model.complete(HELLO, controller.signal);
    await upstream.waitForRequest(n);
    controller.abort('stop');
    await assert.rejects(outcome, (error) => error === 'stop');
    await upstream.waitForClosed(n);
  }
  await assert.rejects(model.complete(HELLO, AbortSignal.abort('gone')), (error) => error === 'gone');
  assert.equal(upstream.requests.length, 2);
});
