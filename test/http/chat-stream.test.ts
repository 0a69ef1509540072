import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { connect, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import {
  type ChatServer,
  checkedProblem,
  databases,
  problemOf,
  startChat,
  until,
} from '../support/chat-server.ts';
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
  type Gate,
  type Handler,
  hang,
  headersThenSilence,
  hugeLine,
  raw,
  reply,
  resetAtOnce,
  script,
  silence,
  status,
  thenErrorObject,
  thenGarbage,
  thenReset,
  thenSilence,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { checkStream, joined, openStream, type SseReader, type StreamEvent } from '../support/sse-client.ts';

const MARKDOWN = [
  '# 标题 Title\n\n**注意：**请先保存 `snake_case`，见[文档](https://x.example/a_b)。\n\n',
  '- one *two*\n- 三 **四**\n\n1. first\n2. second\n\n> quoted 😀 **words**\n\n',
  '| a | b |\n|---|---|\n| 𠮷 | ~~no~~ 2 ** 3 |\n\n```js\nconst x = `**not bold**`;\n```\n\n---\n\nThe end 👨‍👩‍👧.\n',
].join('');

/** One chunk of the model behind each gate, then a good end. */
function gated(...pieces: readonly [Gate, string][]): Handler {
  return script(...pieces.flatMap(([gate, text]) => [wait(gate), delta(text)]), finish(), usage(), done());
}

async function saved(chat: ChatServer, reader: SseReader, count = 2) {
  const id = String(reader.headers['x-conversation-id']);
  // Without their texts, which can be long.
  const statuses = () => chat.server.database.knex('messages').where({ conversation_id: id }).pluck('status');
  await until(`${count} rows`, async () => {
    const all = await statuses();
    return all.length >= count && !all.includes('streaming');
  });
  return chat.rows(id);
}

describe('POST /api/chat-stream', () => {
  let chat: ChatServer;
  /** Nothing but a first token or a fault opens its streams. */
  before(async () => {
    chat = await startChat({ SSE_OPEN_MS: '600000' });
  });
  after(() => chat.stop());

  it('sends exactly the headers and events of the contract', async () => {
    const [a, b] = [createGate(), createGate()];
    chat.upstream.respond([gated([a, '您好'], [b, '，**world** 😀\n'])]);
    const opening = openStream(chat.url, { message: 'hi', format: 'markdown' });
    a.open();
    const reader = await opening;
    const events = [await reader.next(), await reader.next()];
    b.open();
    events.push(...(await reader.rest()));
    const { headers } = reader;
    const stream = String(headers['x-stream-id']);
    const conversation = String(headers['x-conversation-id']);
    const question = (await chat.rows(conversation))[0]?.uid;
    assert.equal(reader.status, 200);
    assert.equal(headers['content-type'], 'text/event-stream; charset=utf-8');
    assert.equal(headers['cache-control'], 'no-cache, no-transform');
    assert.equal(headers['x-accel-buffering'], 'no');
    assert.equal(headers['cache-status'], 'chat; fwd=miss');
    assert.equal(
      events.map((event) => event?.raw).join(''),
      `retry: 3000
event: start
id: ${stream}:0
data: {"content":"","conversation_id":"${conversation}","stream_id":"${stream}","message_id":"${stream}","question_id":"${question}","model":"gpt-4o-mini","format":"markdown","cached":false}

id: ${stream}:2
data: {"content":"您好"}

id: ${stream}:16
data: {"content":"，**world** 😀\\n"}

event: done
id: ${stream}:16:end
data: {"content":"","finish_reason":"stop","usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8},"persisted":true,"length":16}

`,
    );
    const rows = await chat.rows(conversation);
    assert.deepEqual(
      rows.map(({ role, content, status: how }) => [role, content, how]),
      [
        ['user', 'hi', 'complete'],
        ['assistant', '您好，**world** 😀\n', 'complete'],
      ],
    );
    assert.equal(rows[1]?.uid, stream);
  });

  it('delivers each chunk before the model sends the next', async () => {
    const gates = Array.from({ length: 5 }, () => createGate());
    chat.upstream.respond([gated(...gates.map((gate, n): [Gate, string] => [gate, `piece ${n}; `]))]);
    const opening = openStream(chat.url, { message: 'one by one' });
    const events: StreamEvent[] = [];
    let reader: SseReader | undefined;
    for (const [n, gate] of gates.entries()) {
      gate.open();
      if (!reader) {
        reader = await opening;
        events.push(await reader.until('start'));
      }
      const event = await reader.until('content');
      // A space at the end of a line is nothing in the text form, so it waits for what follows.
      assert.equal(event.content.trim(), `piece ${n};`);
      events.push(event);
    }
    assert(reader);
    events.push(...(await reader.rest()));
    assert.equal(checkStream(events).data.length, joined(events).length);
  });

  it('sends headers and start with the first token', async () => {
    const gate = createGate();
    const number = chat.upstream.requests.length + 1;
    chat.upstream.respond([gated([gate, 'first'])]);
    let opened = false;
    const opening = openStream(chat.url, { message: 'patience' }).then((reader) => {
      opened = true;
      return reader;
    });
    await chat.upstream.waitForRequest(number);
    await chat.ask({ message: 'meanwhile, a whole round trip' });
    assert.equal(opened, false);
    gate.open();
    const events = await (await opening).rest();
    assert.deepEqual(
      events.map(({ type, content }) => [type, content]),
      [
        ['start', ''],
        ['content', 'first'],
        ['done', ''],
      ],
    );
  });

  it('is text unless Markdown is requested, and equals the JSON reply', async () => {
    chat.upstream.respond(reply(MARKDOWN, { chunks: 40 }));
    for (const format of [undefined, 'text', 'markdown']) {
      const wanted = { message: 'formats', cache: false };
      const whole = await chat.ask({ ...wanted, format: format ?? 'text' });
      const reader = await openStream(chat.url, { ...wanted, ...(format ? { format } : {}) });
      const events = await reader.rest();
      checkStream(events);
      assert.equal(events[0]?.data.format, format ?? 'text');
      assert.equal(joined(events), whole.response);
      if (format === 'markdown') assert.equal(whole.response, MARKDOWN);
      assert.equal((await saved(chat, reader))[1]?.content, MARKDOWN);
    }
  });

  it('is the same however the model splits it, also inside characters', async () => {
    const units = fc.array(fc.integer({ min: 1, max: MARKDOWN.length - 1 }), { maxLength: 60 });
    const whole: Record<string, string> = {};
    chat.upstream.respond([reply(MARKDOWN), reply(MARKDOWN)]);
    for (const format of ['text', 'markdown']) {
      whole[format] = (await chat.ask({ message: 'cuts', format, cache: false })).response;
    }
    await fc.assert(
      fc.asyncProperty(units, fc.constantFrom('text', 'markdown'), async (cuts, format) => {
        const edges = [0, ...[...new Set(cuts)].sort((a, b) => a - b), MARKDOWN.length];
        const pieces = edges.slice(1).map((to, n) => MARKDOWN.slice(edges[n], to));
        const steps = pieces.flatMap((piece) => [raw(chunk({ content: piece })), arrive()]);
        chat.upstream.respond([script(...steps, finish(), done())]);
        const reader = await openStream(chat.url, { message: 'cuts', format, cache: false });
        const events = await reader.rest();
        checkStream(events);
        assert.equal(joined(events), whole[format]);
        assert.equal((await chat.rows(String(reader.headers['x-conversation-id'])))[1]?.content, MARKDOWN);
      }),
      { numRuns: 25 },
    );
  });

  it('is never compressed', async () => {
    const reader = await openStream(
      chat.url,
      { message: 'plain' },
      { headers: { 'accept-encoding': 'gzip, deflate, br, zstd' } },
    );
    assert.equal(reader.headers['content-encoding'], undefined);
    checkStream(await reader.rest());
  });

  it('can be read by an HTTP/1.0 client', async () => {
    const body = JSON.stringify({ message: 'old client' });
    const { promise, resolve } = Promise.withResolvers<string>();
    const socket = connect(Number(new URL(chat.url).port), '127.0.0.1');
    let text = '';
    socket.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
    });
    socket.on('end', () => resolve(text));
    socket.write(
      `POST /api/chat-stream HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    const [head = '', events = ''] = (await promise).split('\r\n\r\n');
    assert.match(head, /^HTTP\/1\.1 200 /);
    assert.doesNotMatch(head, /transfer-encoding/i);
    assert.match(events, /^retry: 3000\nevent: start\n.*\n\nevent: done\nid: \S+:end\ndata: .*\n\n$/s);
  });

  for (const [given, told] of [
    ['length', 'length'],
    ['content_filter', 'content_filter'],
    ['tool_calls', 'stop'],
  ] as const) {
    it(`ends with done and ${told} when the model ends with ${given}`, async () => {
      chat.upstream.respond([reply('so far', { finishReason: given, usage: false })]);
      const reader = await openStream(chat.url, { message: `end ${given}` });
      const end = checkStream(await reader.rest());
      assert.deepEqual([end.type, end.data.finish_reason, end.data.usage], ['done', told, null]);
      assert.equal((await saved(chat, reader))[1]?.status, 'complete');
    });
  }

  it('carries 30 concurrent replies without mixing them', async () => {
    chat.upstream.respond(async (exchange) => {
      const text = exchange.request.body.messages.at(-1)?.content ?? '';
      const steps = Array.from({ length: 20 }, (_, n) => [delta(`${text}:${n} `), arrive()]).flat();
      await script(...steps, finish(), done())(exchange);
    });
    await Promise.all(
      Array.from({ length: 30 }, async (_, n) => {
        const reader = await openStream(chat.url, { message: `s${n}`, format: 'markdown' });
        const events = await reader.rest();
        checkStream(events);
        const wanted = Array.from({ length: 20 }, (__, k) => `s${n}:${k} `).join('');
        assert.equal(joined(events), wanted);
        assert.deepEqual(
          (await saved(chat, reader)).map(({ content }) => content),
          [`s${n}`, wanted],
        );
      }),
    );
  });
});

describe('POST /api/chat-stream with a failing model server', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({
      SSE_OPEN_MS: '600000',
      OPENAI_FIRST_TOKEN_TIMEOUT_MS: '1000',
      OPENAI_IDLE_TIMEOUT_MS: '1000',
    });
  });
  after(() => chat.stop());

  describe('before it is open reports errors with their real status:', () => {
    const cases: [what: string, handler: Handler, status: number, code: string, retryAfter?: string][] = [
      ['401', status(401), 502, 'upstream_error'],
      ['429', status(429), 503, 'upstream_busy', '5'],
      ['429 with a time', status(429, { 'retry-after': '3600' }), 503, 'upstream_busy', '3600'],
      ['503', status(503), 503, 'upstream_busy', '5'],
      ['500', status(500), 502, 'upstream_error'],
      ['400', status(400), 502, 'upstream_rejected'],
      ['a reset', resetAtOnce(), 502, 'upstream_error'],
      ['no answer', hang(), 504, 'upstream_timeout'],
      ['no first token', headersThenSilence(), 504, 'upstream_timeout'],
      ['an end without a word', endWithoutFinish(), 502, 'upstream_incomplete'],
      ['an empty reply', script(finish(), done()), 502, 'upstream_empty'],
      ['garbage', thenGarbage(), 502, 'upstream_error'],
      ['an error in the stream', thenErrorObject(), 502, 'upstream_error'],
    ];
    for (const [what, handler, code, name, retryAfter] of cases) {
      it(`${what} is ${code} ${name}, and only the question is stored`, async () => {
        const id = crypto.randomUUID();
        // A connection that was kept open and is cut is tried once more, so every request is answered like this.
        chat.upstream.respond(handler);
        const answer = await chat.call('POST', '/api/chat-stream', { message: what, conversation_id: id });
        problemOf(answer, code, name);
        assert.equal(answer.headers['retry-after'], retryAfter);
        assert.doesNotMatch(answer.text, /upstream says no|garbled/);
        assert.deepEqual(
          (await chat.rows(id)).map(({ content }) => content),
          [what],
        );
      });
    }
  });

  describe('once open ends in an error event and stores its text as incomplete, after', () => {
    const said = ['**Half** of ', 'a 😀 repl'];
    const cases: [what: string, handler: Handler, status: number, code: string][] = [
      ['a reset', thenReset(...said), 502, 'upstream_incomplete'],
      ['an end without finish_reason', endWithoutFinish(...said), 502, 'upstream_incomplete'],
      ['garbage', thenGarbage(...said), 502, 'upstream_error'],
      ['an error object', thenErrorObject(...said), 502, 'upstream_error'],
      ['silence', thenSilence(...said), 504, 'upstream_timeout'],
    ];
    for (const [what, handler, code, name] of cases) {
      it(what, async () => {
        chat.upstream.respond(handler);
        const reader = await openStream(chat.url, { message: what, format: 'markdown' });
        const events = await reader.rest();
        const end = checkStream(events);
        assert.equal(end.type, 'error');
        const document = checkedProblem(end.data, code, name, String(reader.headers['x-request-id']));
        assert.equal(document.instance, '/api/chat-stream');
        assert.deepEqual([end.content, end.data.finish_reason], ['', 'error']);
        assert.doesNotMatch(end.raw, /upstream says no|garbled/);
        assert.equal(joined(events), said.join(''));
        const [, row] = await saved(chat, reader);
        assert.deepEqual([row?.content, row?.status], [joined(events), 'incomplete']);
      });
    }
  });
});

describe('POST /api/chat-stream opened early', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({ SSE_OPEN_MS: '0', SSE_HEARTBEAT_MS: '15' });
  });
  after(() => chat.stop());

  it('sends start immediately, and pings before the first token and between tokens', async () => {
    const [a, b, c] = [createGate(), createGate(), createGate()];
    chat.upstream.respond([gated([a, 'one '], [b, 'two '], [c, 'three'])]);
    const reader = await openStream(chat.url, { message: 'ping me', format: 'markdown' });
    const events = [await reader.next(), await reader.next(), await reader.next()];
    assert.deepEqual(
      events.map((event) => event?.type),
      ['start', 'ping', 'ping'],
    );
    a.open();
    assert.equal((await reader.until('content')).content, 'one ');
    await reader.until('ping');
    b.open();
    assert.equal((await reader.until('content')).content, 'two ');
    c.open();
    const rest = (await reader.rest()).filter(({ type }) => type !== 'ping');
    assert.deepEqual(
      rest.map(({ type, content }) => [type, content]),
      [
        ['content', 'three'],
        ['done', ''],
      ],
    );
  });

  it('reports errors by an error event, and stores no empty reply', async () => {
    const gate = createGate();
    chat.upstream.respond([
      async (exchange) => {
        await wait(gate)(exchange);
        await status(429, { 'retry-after': '3600' })(exchange);
      },
    ]);
    const reader = await openStream(chat.url, { message: 'too late for a status' });
    const events = [await reader.until('start')];
    gate.open();
    events.push(...(await reader.rest()));
    const end = checkStream(events);
    checkedProblem(end.data, 503, 'upstream_busy', String(reader.headers['x-request-id']));
    const id = String(reader.headers['x-conversation-id']);
    assert.deepEqual(
      (await chat.rows(id)).map(({ role }) => role),
      ['user'],
    );
  });

  it('opens after SSE_OPEN_MS when no token has come', async (t) => {
    const slow = await startChat({ SSE_OPEN_MS: '120' });
    t.after(() => slow.stop());
    const gate = createGate();
    slow.upstream.respond([gated([gate, 'x'])]);
    const began = performance.now();
    const reader = await openStream(slow.url, { message: 'when' });
    const waited = performance.now() - began;
    assert(waited >= 115, `after ${waited} ms`);
    const events = [await reader.until('start')];
    gate.open();
    checkStream([...events, ...(await reader.rest())]);
  });

  it('cuts a reply at REPLY_MAX_BYTES or REPLY_MAX_MS: done, length, stored as incomplete', async (t) => {
    const capped = await startChat({ REPLY_MAX_BYTES: '1024', REPLY_MAX_MS: '1500', CACHE_MAX_BYTES: '0' });
    t.after(() => capped.stop());
    const slow = script(delta('slow 😀'), silence());
    for (const [handler, least] of [
      [endless('很'), 1020],
      [hugeLine(50_000_000, 'before the huge line'), 20],
      [slow, 9],
    ] as const) {
      const number = capped.upstream.requests.length + 1;
      capped.upstream.respond([handler]);
      const reader = await openStream(capped.url, { message: 'on and on', format: 'markdown' });
      const events = await reader.rest();
      const end = checkStream(events);
      assert.deepEqual([end.type, end.data.finish_reason], ['done', 'length']);
      const bytes = Buffer.byteLength(joined(events));
      assert(bytes <= 1024 && bytes >= least, `${bytes} bytes`);
      const [, row] = await saved(capped, reader);
      assert.deepEqual(
        [row?.content, row?.status, row?.finish_reason],
        [joined(events), 'incomplete', 'length'],
      );
      await capped.upstream.waitForClosed(number);
    }
  });
});

for (const place of databases()) {
  describe(`a reader that disconnects, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({ ...(await place.create()), SSE_OPEN_MS: '600000' });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const gone = () => chat.server.lines.filter(({ client }) => client === 'gone').length;
    /** Waits for the access line that says so: from then on the server knows. */
    const leaves = async (leave: () => void) => {
      const count = gone();
      leave();
      await until('the access line', () => gone() > count);
    };
    const wholeAndOnce = async (id: string, number: number) => {
      const rows = await until('the reply', async () => {
        const found = await chat.rows(id);
        return found[1]?.status !== 'streaming' && found.length > 1 && found;
      });
      assert.deepEqual(
        rows.map(({ content, status: how }) => [content, how]),
        [
          ['bye', 'complete'],
          ['first, second', 'complete'],
        ],
      );
      assert.equal(chat.upstream.requests[number - 1]?.closed, false);
    };

    it('before the headers does not end the reply, which is saved whole and once', async () => {
      const [a, b] = [createGate(), createGate()];
      const id = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([gated([a, 'first, '], [b, 'second'])]);
      const cut = new AbortController();
      const body = { message: 'bye', conversation_id: id, cache: false };
      const opening = openStream(chat.url, body, { signal: cut.signal });
      opening.catch(() => {});
      await chat.upstream.waitForRequest(number);
      await leaves(() => cut.abort());
      a.open();
      b.open();
      await wholeAndOnce(id, number);
    });

    it('after the first token does not end it either', async () => {
      const [a, b] = [createGate(), createGate()];
      const id = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([gated([a, 'first, '], [b, 'second'])]);
      a.open();
      const reader = await openStream(chat.url, { message: 'bye', conversation_id: id, cache: false });
      await reader.until('content');
      await leaves(() => reader.leave());
      b.open();
      await wholeAndOnce(id, number);
    });

    it('does not end it while it waits for the save', async () => {
      const a = createGate();
      const id = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([script(delta('first, second'), wait(a), finish(), done())]);
      const reader = await openStream(chat.url, { message: 'bye', conversation_id: id, cache: false });
      await reader.until('content');
      reader.leave();
      a.open();
      await wholeAndOnce(id, number);
    });

    it('before a JSON reply arrives loses nothing', async () => {
      const a = createGate();
      const id = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([
        async (exchange) => {
          await wait(a)(exchange);
          await reply('first, second')(exchange);
        },
      ]);
      const cut = new AbortController();
      const asking = fetch(`${chat.url}/api/chat`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ message: 'bye', conversation_id: id, cache: false }),
        signal: cut.signal,
      });
      asking.catch(() => {});
      await chat.upstream.waitForRequest(number);
      await leaves(() => cut.abort());
      a.open();
      await wholeAndOnce(id, number);
    });
  });
}

describe('slow readers of a long reply', () => {
  const MB = 1024 * 1024;
  const line = `${'一二三四五六七八九😀'.repeat(30)} ${'𠮷'.repeat(60)}\n`;
  const text = line.repeat(Math.floor((6 * MB) / Buffer.byteLength(line)));
  const digest = (value: string) => createHash('sha256').update(value).digest('hex');
  /** The server's ends of the connections of all requests so far. */
  const sockets: Socket[] = [];
  const remember = (message: unknown) => void sockets.push((message as { socket: Socket }).socket);
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({ REPLY_MAX_BYTES: '8mb', SSE_OPEN_MS: '0' });
    subscribe('http.server.request.start', remember);
  });
  after(async () => {
    unsubscribe('http.server.request.start', remember);
    await chat.stop();
  });

  it('do not slow the reply down, and get all of it when they read on', async () => {
    chat.upstream.respond([
      script(flood(chunk({ content: line }), sizeOnWire(text, line)), finish(), done()),
    ]);
    const reader = await openStream(chat.url, { message: 'long', format: 'markdown' });
    const events = [await reader.until('start')];
    const [, row] = await saved(chat, reader);
    assert.equal(row?.status, 'complete');
    assert.equal(digest(row?.content ?? ''), digest(text));
    assert.equal((await chat.ask({ message: 'others are served' })).response, 'echo: others are served');
    events.push(...(await reader.rest()));
    assert.equal(checkStream(events).type, 'done');
    assert.equal(digest(joined(events)), digest(text));
  });

  it('cost no copy of the reply each', async () => {
    // The reply above is in the cache now.
    const readers: SseReader[] = [];
    const body = { message: 'long', format: 'markdown' };
    sockets.length = 0;
    for (let n = 0; n < 2; n += 1) readers.push(await openStream(chat.url, body));
    const waiting = sockets.map((socket) => socket.writableLength);
    for (const [n, reader] of readers.entries()) {
      assert.match(String(reader.headers['cache-status']), /hit/);
      assert((waiting[n] ?? 0) < 512 * 1024, `${waiting[n]} bytes wait for a reader`);
    }
    await Promise.all(readers.map((reader) => saved(chat, reader)));
    for (const reader of readers.slice(1)) reader.leave();
    const events = (await readers[0]?.rest()) ?? [];
    assert.equal(checkStream(events).data.length, text.length);
    assert.equal(digest(joined(events)), digest(text));
  });
});

function sizeOnWire(text: string, line: string): number {
  return (text.length / line.length) * chunk({ content: line }).length;
}
