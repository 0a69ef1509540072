import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  brotliCompressSync,
  constants,
  createGzip,
  deflateRawSync,
  deflateSync,
  gzipSync,
  zstdCompressSync,
} from 'node:zlib';
import {
  arrive,
  burst,
  chunk,
  createGate,
  delta,
  done,
  emptyChoices,
  finish,
  type Handler,
  raw,
  reasoning,
  reply,
  reset,
  role,
  type Step,
  script,
  silence,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { textReader } from '../support/fakes.ts';
import { HELLO, KEY, never, setUp, startStream } from './setup.ts';

const DONE = 'data: [DONE]\n\n';
const COUNTED = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 };

test('a streamed reply arrives whole, with its reason, token counts and the model’s own name', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(reply('Hello 世界 😀!', { chunks: 5 }));
  const { deltas, outcome } = startStream(model);
  assert.deepEqual(await outcome, {
    finishReason: 'stop',
    usage: COUNTED,
    model: 'fake-model',
    truncated: false,
  });
  assert.equal(deltas.join(''), 'Hello 世界 😀!');
});

test('the request carries the context, the parameters, the key and the extra headers', async (t) => {
  const { model, upstream } = await setUp(t, { headers: { 'x-title': 'chat', 'User-Agent': 'mine' } });
  const messages = [
    { role: 'system', content: 'be kind' },
    { role: 'user', content: 'hi 😀' },
  ] as const;
  await model.stream(
    { model: 'm', messages, parameters: { temperature: 0.5, max_tokens: 7 } },
    textReader(),
    never(),
  );
  const request = await upstream.waitForRequest(1);
  assert.equal(request.path, '/v1/chat/completions');
  assert.equal(request.headers.authorization, `Bearer ${KEY}`);
  assert.equal(request.headers['x-title'], 'chat');
  assert.equal(request.headers['user-agent'], 'mine');
  assert.deepEqual(request.body, {
    model: 'm',
    messages,
    temperature: 0.5,
    max_tokens: 7,
    stream: true,
    stream_options: { include_usage: true },
  });
});

test('every call carries its own context, and the same headers as the first', async (t) => {
  const { model, upstream } = await setUp(t);
  const contents = ['one', 'two', 'three'];
  for (const content of contents) {
    const request = { model: 'm', messages: [{ role: 'user', content }], parameters: {} } as const;
    const { content: echoed } = await model.complete(request, never());
    assert.equal(echoed, `echo: ${content}`);
    const pieces: string[] = [];
    await model.stream(
      request,
      textReader((text) => pieces.push(text)),
      never(),
    );
    assert.equal(pieces.join(''), `echo: ${content}`);
  }
  const sent = upstream.requests.map(({ headers: { 'content-length': _, ...headers } }) => headers);
  assert.equal(sent.length, 6);
  for (const headers of sent) assert.deepEqual(headers, sent[0]);
});

test('without a key no Authorization is sent, unless the extra headers bring one', async (t) => {
  const bare = await setUp(t, { apiKey: undefined });
  await startStream(bare.model).outcome;
  assert.equal(bare.upstream.requests[0]?.headers.authorization, undefined);
  const own = await setUp(t, { apiKey: undefined, headers: { authorization: 'Basic abc' } });
  await startStream(own.model).outcome;
  assert.equal(own.upstream.requests[0]?.headers.authorization, 'Basic abc');
});

test('a piece is passed on before the reply ends', async (t) => {
  const { model, upstream } = await setUp(t);
  const gate = createGate();
  upstream.respond(script(role(), delta('first'), wait(gate), delta(' second'), finish(), done()));
  const seen = Promise.withResolvers<string>();
  const { deltas, outcome } = startStream(model, never(), seen.resolve);
  assert.equal(await seen.promise, 'first');
  gate.open();
  await outcome;
  assert.deepEqual(deltas, ['first', ' second']);
});

test('the text of one network read is passed on in one call', async (t) => {
  const { model, upstream } = await setUp(t);
  const pieces = ['a', 'b', 'c', 'd'].map((content) => chunk({ content }));
  upstream.respond([
    script(raw(pieces.join('')), finish(), done()),
    // Each an HTTP chunk of its own, in one packet.
    script(role(), arrive(), burst(...pieces), arrive(), finish(), done()),
  ]);
  const one = startStream(model);
  await one.outcome;
  assert.deepEqual(one.deltas, ['abcd']);
  const two = startStream(model);
  await two.outcome;
  assert.deepEqual(two.deltas, ['abcd']);
});

test('a surrogate pair split between chunks is passed on in one piece', async (t) => {
  const { model, upstream } = await setUp(t);
  const halves = ['"x\\ud83d"', '"\\ude00y"'].map((content) =>
    raw(`data: {"choices":[{"index":0,"delta":{"content":${content}}}]}\n\n`),
  );
  upstream.respond(script(...halves.flatMap((half): Step[] => [half, arrive()]), finish(), done()));
  const { deltas, outcome } = startStream(model);
  await outcome;
  assert.deepEqual(deltas, ['x', '😀y']);
});

test('a lone surrogate becomes U+FFFD, in the middle and at the end', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(
    script(
      raw('data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'),
      arrive(),
      raw('data: {"choices":[{"delta":{"content":"b\\ude00c\\ud83d"}}]}\n\n'),
      arrive(),
      finish(),
      done(),
    ),
  );
  const { deltas, outcome } = startStream(model);
  await outcome;
  assert.equal(deltas.join(''), 'a\ufffdb\ufffdc\ufffd');
  assert.ok(deltas.every((text) => text.isWellFormed() && text !== ''));
});

test('characters survive being cut anywhere between network writes', async (t) => {
  const { model, upstream } = await setUp(t);
  const bytes = Buffer.from(chunk({ content: 'é世😀' }));
  const single = [...bytes].flatMap((byte): Step[] => [raw(Uint8Array.of(byte)), arrive()]);
  upstream.respond(script(...single, finish(), done()));
  const { deltas, outcome } = startStream(model);
  await outcome;
  assert.equal(deltas.join(''), 'é世😀');
});

test('CRLF line ends, comments, other fields and a missing last empty line are read correctly', async (t) => {
  const { model, upstream } = await setUp(t);
  const crlf = (text: string) => text.replaceAll('\n', '\r\n');
  upstream.respond(
    script(
      raw(': connected\r\n\r\n'),
      raw(crlf(`event: message\nid: 1\n${chunk({ content: 'one' })}`)),
      raw('retry: 5\n: OPENROUTER PROCESSING\n\ndata:\n\ndata: \n\n'),
      raw(`data:${chunk({ content: ' two' }).slice('data: '.length)}`),
      raw(chunk({ content: ' three' }, 'stop').trimEnd()),
    ),
  );
  const { deltas, outcome } = startStream(model);
  assert.equal((await outcome).finishReason, 'stop');
  assert.equal(deltas.join(''), 'one two three');
});

test('chunks without choices are skipped', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(emptyChoices('still here'));
  const { deltas, outcome } = startStream(model);
  assert.deepEqual((await outcome).usage, COUNTED);
  assert.equal(deltas.join(''), 'still here');
});

test('a reply without token counts or model name has no usage and the asked model', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(
    script(
      raw(
        'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":-1}}\n\n',
      ),
    ),
  );
  const outcome = await startStream(model).outcome;
  assert.deepEqual(outcome, { finishReason: 'stop', usage: null, model: HELLO.model, truncated: false });
});

for (const [sent, expected] of [
  ['stop', 'stop'],
  ['length', 'length'],
  ['content_filter', 'content_filter'],
  ['tool_calls', 'stop'],
] as const) {
  test(`finish_reason ${sent} is taken as ${expected}`, async (t) => {
    const { model, upstream } = await setUp(t);
    upstream.respond(reply('x', { finishReason: sent }));
    assert.equal((await startStream(model).outcome).finishReason, expected);
  });
}

test('an empty reply is an error, unless the content filter made it so', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond([
    script(role(), finish(), usage(), done()),
    script(raw(chunk({ reasoning_details: [{ type: 'reasoning.encrypted' }] })), finish('length'), done()),
    script(role(), finish('content_filter'), usage(), done()),
  ]);
  await assert.rejects(startStream(model).outcome, { name: 'AppError', code: 'upstream_empty' });
  await assert.rejects(startStream(model).outcome, { code: 'upstream_empty' });
  assert.equal((await startStream(model).outcome).finishReason, 'content_filter');
  assert.equal(upstream.requests.length, 3, 'none is tried again');
});

test('after finish_reason no error counts: a reset, no [DONE], garbage, silence', async (t) => {
  const { model, upstream } = await setUp(t, { idleTimeoutMs: 500 });
  upstream.respond([
    script(delta('whole'), finish(), usage(), arrive(), reset()),
    script(delta('whole'), finish(), usage()),
    script(delta('whole'), finish(), usage(), raw('data: {garbled\n\n'), silence()),
    script(delta('whole'), finish(), usage(), silence()),
  ]);
  for (let n = 1; n <= 4; n++) {
    const { deltas, outcome } = startStream(model);
    assert.deepEqual(await outcome, {
      finishReason: 'stop',
      usage: COUNTED,
      model: 'fake-model',
      truncated: false,
    });
    assert.deepEqual(deltas, ['whole']);
  }
  assert.equal(upstream.requests.length, 4);
  await upstream.waitForClosed(4);
});

const PART = [{ type: 'thinking', thinking: [{ type: 'text', text: 'hm' }] }];
for (const [form, sign] of [
  ['reasoning', reasoning('hm')],
  ['reasoning in parts', raw(chunk({ content: PART }))],
  ['a tool call', raw(chunk({ tool_calls: [{ index: 0, id: 'x' }] }))],
] as const) {
  test(`${form} counts as the first token and is not passed on`, async (t) => {
    const { model, upstream } = await setUp(t, { firstTokenTimeoutMs: 700 });
    upstream.respond(script(sign, wait(900), delta('so'), finish(), done()));
    const { deltas, outcome } = startStream(model);
    await outcome;
    assert.deepEqual(deltas, ['so']);
  });
}

/** A stream, and an object, each compressed. */
function compressed(encoding: string, compress: (data: string) => Uint8Array): Handler {
  const stream = chunk({ content: 'Hello 世界' }) + chunk({}, 'stop') + DONE;
  const object = { choices: [{ message: { content: 'Hello 世界' }, finish_reason: 'stop' }] };
  return ({ request, response }) => {
    response.writeHead(200, { 'content-encoding': encoding });
    response.end(compress(request.body.stream ? stream : JSON.stringify(object)));
  };
}

for (const [name, encoding, compress] of [
  ['gzip', 'gzip', gzipSync],
  ['gzip by its old name', 'x-gzip', gzipSync],
  ['deflate', 'deflate', deflateSync],
  ['deflate without its header', 'deflate', deflateRawSync],
  ['br', 'br', brotliCompressSync],
  ['zstd', 'zstd', zstdCompressSync],
  ['gzip without its last bytes', 'gzip', (data: string) => gzipSync(data).subarray(0, -8)],
  ['nothing under the name of gzip', 'gzip', (data: string) => Buffer.from(data)],
  ['nothing by name', 'identity', (data: string) => Buffer.from(data)],
] as const) {
  test(`a reply compressed with ${name} is read`, async (t) => {
    const { model, upstream } = await setUp(t);
    upstream.respond(compressed(encoding, compress));
    const { deltas, outcome } = startStream(model);
    await outcome;
    assert.equal(deltas.join(''), 'Hello 世界');
    assert.equal((await model.complete(HELLO, never())).content, 'Hello 世界');
  });
}

test('a compressed piece is passed on before the reply ends', async (t) => {
  const { model, upstream } = await setUp(t);
  const gate = createGate();
  upstream.respond(async ({ response }) => {
    response.writeHead(200, { 'content-encoding': 'gzip' });
    const gzip = createGzip({ flush: constants.Z_SYNC_FLUSH });
    gzip.pipe(response);
    gzip.write(chunk({ content: 'first' }));
    await gate.opened;
    gzip.end(chunk({ content: ' second' }, 'stop'));
  });
  const seen = Promise.withResolvers<string>();
  const { deltas, outcome } = startStream(model, never(), seen.resolve);
  assert.equal(await seen.promise, 'first');
  gate.open();
  await outcome;
  assert.deepEqual(deltas, ['first', ' second']);
});

test('an object for a stream, and a stream for an object, are read', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(({ request, response }) => {
    const isStream = request.body.stream;
    request.body.stream = !isStream;
    return reply('Hello')({ request, response });
  });
  const { deltas, outcome } = startStream(model);
  assert.equal((await outcome).finishReason, 'stop');
  assert.deepEqual(deltas, ['Hello']);
  assert.equal((await model.complete(HELLO, never())).content, 'Hello');
});

test('probe lists the models and tells up, refused, not found and down apart', async (t) => {
  const { model, upstream } = await setUp(t);
  assert.equal(await model.probe(never()), 'up');
  for (const [code, expected] of [
    [400, 'up'],
    [401, 'refused'],
    [403, 'refused'],
    [404, 'not_found'],
    [500, 'down'],
    [503, 'down'],
  ] as const) {
    upstream.respondModels((response) => response.writeHead(code).end('{}'));
    assert.equal(await model.probe(never()), expected, `${code}`);
  }
  assert.equal(upstream.modelRequests, 7);
  assert.equal(await model.probe(AbortSignal.abort()), 'down');
  await upstream.close();
  assert.equal(await model.probe(never()), 'down');
});

test('probe is down when its signal aborts', async (t) => {
  const { model, upstream } = await setUp(t);
  const controller = new AbortController();
  upstream.respondModels(() => controller.abort());
  assert.equal(await model.probe(controller.signal), 'down');
});
