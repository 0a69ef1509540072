import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ModelOptions } from '../../src/llm/model.ts';
import {
  arrive,
  chunk,
  createGate,
  delta,
  done,
  endless,
  endWithoutFinish,
  finish,
  flood,
  type Handler,
  hang,
  headersThenSilence,
  hugeLine,
  raw,
  reasoning,
  reset,
  role,
  script,
  silence,
  status,
  thenErrorObject,
  thenGarbage,
  thenReset,
  thenSilence,
  wait,
} from '../support/fake-upstream.ts';
import { never, setUp, startStream } from './setup.ts';

interface Fault {
  readonly name: string;
  readonly handler: Handler;
  readonly code: string;
  /** The text before the error. */
  readonly said: string;
  readonly options?: Partial<ModelOptions>;
}

/** Long enough for a busy machine to send the request, short enough to wait for. */
const SHORT = { firstTokenTimeoutMs: 1000, idleTimeoutMs: 1000 };
const html = { 'content-type': 'text/html' };

const ERRORS: readonly Fault[] = [
  { name: 'a hang before the headers', handler: hang(), code: 'upstream_timeout', said: '', options: SHORT },
  {
    name: 'headers, then silence',
    handler: headersThenSilence(),
    code: 'upstream_timeout',
    said: '',
    options: SHORT,
  },
  {
    name: 'only empty role chunks and comments before the first-token timeout',
    handler: script(role(), role(), raw(': ping\n\n'), silence()),
    code: 'upstream_timeout',
    said: '',
    options: { firstTokenTimeoutMs: 500 },
  },
  {
    name: 'silence between tokens',
    handler: thenSilence('one', ' two'),
    code: 'upstream_timeout',
    said: 'one two',
    options: { idleTimeoutMs: 500 },
  },
  {
    name: 'comments instead of tokens',
    handler: script(delta('one'), ...Array.from({ length: 60 }, () => [wait(10), raw(': ping\n\n')]).flat()),
    code: 'upstream_timeout',
    said: 'one',
    options: { idleTimeoutMs: 200 },
  },
  {
    name: 'a reset between tokens',
    handler: thenReset('one', ' two'),
    code: 'upstream_incomplete',
    said: 'one two',
  },
  {
    name: 'a reset after a finish_reason that came with text',
    handler: script(raw(chunk({ content: 'one' }, 'stop')), arrive(), reset()),
    code: 'upstream_incomplete',
    said: 'one',
  },
  {
    name: 'a reset while each piece has the finish_reason "null"',
    handler: script(raw(chunk({ content: 'one' }, 'null')), arrive(), reset()),
    code: 'upstream_incomplete',
    said: 'one',
  },
  {
    name: 'a reset while the model thinks aloud',
    handler: script(reasoning('hm'), arrive(), reset()),
    code: 'upstream_incomplete',
    said: '',
  },
  {
    name: '[DONE] without finish_reason',
    handler: endWithoutFinish('one', ' two'),
    code: 'upstream_incomplete',
    said: 'one two',
  },
  {
    name: 'a clean end without finish_reason and without [DONE]',
    handler: script(delta('one'), raw('data: {"choices":[{"del')),
    code: 'upstream_incomplete',
    said: 'one',
  },
  { name: 'an empty stream', handler: script(), code: 'upstream_incomplete', said: '' },
  { name: 'a web page', handler: status(200, html, '<p>Welcome'), code: 'upstream_error', said: '' },
  { name: 'JSON in place of a stream', handler: status(200), code: 'upstream_error', said: '' },
  {
    name: 'a compression that is none',
    handler: status(200, { 'content-encoding': 'br' }),
    code: 'upstream_error',
    said: '',
  },
  {
    name: 'an unknown compression',
    handler: status(200, { 'content-encoding': 'snappy' }),
    code: 'upstream_error',
    said: '',
  },
  { name: 'a garbage line', handler: thenGarbage('one', ' two'), code: 'upstream_error', said: 'one two' },
  {
    name: 'nothing but lines that are no objects',
    handler: script(raw('data: 17\n\n'), raw('data: words\n\n'), done()),
    code: 'upstream_incomplete',
    said: '',
  },
  { name: 'an error object', handler: thenErrorObject('one'), code: 'upstream_error', said: 'one' },
  {
    name: 'finish_reason error',
    handler: script(delta('one'), finish('error'), done()),
    code: 'upstream_error',
    said: 'one',
  },
];

for (const { name, handler, code, said, options } of ERRORS) {
  test(`${name}: ${code}, once, after the text before it`, async (t) => {
    const { model, upstream, lines } = await setUp(t, options);
    upstream.respond(handler);
    const { deltas, outcome } = startStream(model);
    await assert.rejects(outcome, { name: 'AppError', code });
    assert.equal(deltas.join(''), said);
    assert.equal(upstream.requests.length, 1);
    assert.deepEqual(
      lines.map(({ level }) => level),
      ['warn'],
    );
    assert.doesNotMatch(JSON.stringify(lines), /Welcome|one|garbled/);
  });
}

for (const [name, handler] of [
  ['before the headers', hang()],
  ['before the first token', headersThenSilence()],
  ['between tokens', thenSilence('one')],
] as const) {
  test(`after a timeout ${name} the upstream's connection is closed`, async (t) => {
    const { model, upstream } = await setUp(t, SHORT);
    upstream.respond(handler);
    await assert.rejects(startStream(model).outcome, { code: 'upstream_timeout' });
    await upstream.waitForClosed(1);
  });
}

test('text of the same network read as an error is passed on before it', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(script(raw(`${chunk({ content: 'last words' })}data: {garbled\n\n`), silence()));
  const { deltas, outcome } = startStream(model);
  await assert.rejects(outcome, { code: 'upstream_error' });
  assert.deepEqual(deltas, ['last words']);
  await upstream.waitForClosed(1);
});

test('an endless reply is cut at the byte limit between two characters, and the upstream is closed', async (t) => {
  const { model, upstream } = await setUp(t, { replyMaxBytes: 1000 });
  upstream.respond(endless('世'));
  const { deltas, outcome } = startStream(model);
  const { finishReason, truncated } = await outcome;
  assert.deepEqual([finishReason, truncated], ['length', true]);
  assert.equal(deltas.join(''), '世'.repeat(333));
  await upstream.waitForClosed(1);
});

test('a reply of exactly the limit is whole', async (t) => {
  const { model, upstream } = await setUp(t, { replyMaxBytes: 4 });
  upstream.respond([
    script(delta('😀'), finish(), done()),
    script(delta('😀'), arrive(), delta('!'), finish()),
  ]);
  assert.equal((await startStream(model).outcome).truncated, false);
  const { deltas, outcome } = startStream(model);
  assert.equal((await outcome).truncated, true);
  assert.deepEqual(deltas, ['😀']);
});

test('a reply is cut at the time limit', async (t) => {
  const { model, upstream } = await setUp(t, { replyMaxMs: 800 });
  upstream.respond(thenSilence('one'));
  const { deltas, outcome } = startStream(model);
  const { finishReason, truncated } = await outcome;
  assert.deepEqual([finishReason, truncated], ['length', true]);
  assert.deepEqual(deltas, ['one']);
  await upstream.waitForClosed(1);
});

test('the time limit without text is a timeout; reasoning is kept, as text would be', async (t) => {
  const { model, upstream } = await setUp(t, { replyMaxMs: 800 });
  upstream.respond([headersThenSilence(), script(reasoning('hm'), silence())]);
  await assert.rejects(startStream(model).outcome, { code: 'upstream_timeout' });
  const { reasoning: thought, outcome } = startStream(model);
  const { finishReason, truncated } = await outcome;
  assert.deepEqual([finishReason, truncated, thought], ['length', true, ['hm']]);
});

test('an endless line ends the reply: earlier text is kept, and memory stays flat', async (t) => {
  const { model, upstream } = await setUp(t, { replyMaxBytes: 65_536 });
  upstream.respond([hugeLine(Number.POSITIVE_INFINITY, 'said'), hugeLine(Number.POSITIVE_INFINITY)]);
  const before = process.memoryUsage().rss;
  const { deltas, outcome } = startStream(model);
  const { finishReason, truncated } = await outcome;
  assert.deepEqual([finishReason, truncated, deltas], ['length', true, ['said']]);
  await assert.rejects(startStream(model).outcome, { code: 'upstream_error' });
  await upstream.waitForClosed(2);
  assert.ok(process.memoryUsage().rss - before < 64 * 1024 * 1024);
});

test('an endless comment ends with the first-token timeout, and memory stays flat', async (t) => {
  const { model, upstream } = await setUp(t, { firstTokenTimeoutMs: 300 });
  upstream.respond(script(raw(': '), flood('x'.repeat(65_536), Number.POSITIVE_INFINITY)));
  const before = process.memoryUsage().rss;
  await assert.rejects(startStream(model).outcome, { code: 'upstream_timeout' });
  await upstream.waitForClosed(1);
  assert.ok(process.memoryUsage().rss - before < 192 * 1024 * 1024);
});

test('an abort closes the upstream connection and rejects with its reason, before and between tokens', async (t) => {
  const { model, upstream } = await setUp(t);
  const reason = new Error('the reader pressed stop');
  upstream.respond([hang(), thenSilence('one')]);
  const early = new AbortController();
  const hanging = startStream(model, early.signal);
  await upstream.waitForRequest(1);
  early.abort(reason);
  await assert.rejects(hanging.outcome, (error) => error === reason);
  await upstream.waitForClosed(1);

  const late = new AbortController();
  const running = startStream(model, late.signal, () => late.abort(reason));
  await assert.rejects(running.outcome, (error) => error === reason);
  await upstream.waitForClosed(2);
  assert.deepEqual(running.deltas, ['one']);
  assert.equal(upstream.requests.length, 2, 'an abort is never tried again');
});

test('no text is passed on after an abort, and an aborted signal sends nothing', async (t) => {
  const { model, upstream, lines } = await setUp(t);
  const gate = createGate();
  upstream.respond(script(delta('one'), wait(gate), delta(' two'), finish(), done()));
  const controller = new AbortController();
  const { deltas, outcome } = startStream(model, controller.signal, () => controller.abort('stop'));
  await assert.rejects(outcome, (error) => error === 'stop');
  await upstream.waitForClosed(1);
  gate.open();
  assert.deepEqual(deltas, ['one']);
  await assert.rejects(startStream(model, AbortSignal.abort('gone')).outcome, (error) => error === 'gone');
  assert.equal(upstream.requests.length, 1);
  assert.deepEqual(lines, [], 'an abort is not worth a line');
});

test('an error of the consumer rejects the call and does not end the process', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(thenSilence('one'));
  const mistake = new Error('mistake');
  const outcome = startStream(model, never(), () => {
    throw mistake;
  }).outcome;
  await assert.rejects(outcome, (error) => error === mistake);
  await upstream.waitForClosed(1);
});
