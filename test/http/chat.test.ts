import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { z } from 'zod';
import { type ChatServer, databases, KEY, problemOf, startChat, until } from '../support/chat-server.ts';
import {
  createGate,
  type Handler,
  hang,
  json,
  reply,
  resetAtOnce,
  status,
  wait,
} from '../support/fake-upstream.ts';
import { joined, openStream } from '../support/sse-client.ts';

const UUID_V7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;
const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const HOUR = 3_600_000;
/** Outside the BMP, three kinds of line ends, both marks that end scripts and strings, and a combining mark. */
const ODD = ' 😀𠮷 "q" \\ </script> \u2028\u2029 \r\n\te\u0301 👨‍👩‍👧 ';

/** After a gate, the handler. */
const held =
  (until: { opened: Promise<void> }, handler: Handler): Handler =>
  async (exchange) => {
    await wait(until.opened)(exchange);
    await handler(exchange);
  };

describe('POST /api/chat', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({ OPENAI_TIMEOUT_MS: '2000' });
  });
  after(() => chat.stop());

  it('returns exactly the members of the contract, with their types', async () => {
    chat.upstream.respond([reply('您好！')]);
    const began = Date.now();
    const answer = await chat.call('POST', '/api/chat', { message: 'shape' });
    assert.equal(answer.status, 200);
    assert.equal(answer.headers['content-type'], 'application/json; charset=utf-8');
    assert.equal(answer.headers['cache-status'], 'chat; fwd=miss');
    const { conversation_id, message_id, question_id, expires_at, ...rest } = JSON.parse(answer.text);
    assert.match(conversation_id, UUID_V7);
    assert.match(message_id, UUID_V7);
    assert.match(question_id, UUID_V7);
    assert.match(expires_at, INSTANT);
    const expires = Date.parse(expires_at) - 24 * HOUR;
    assert(expires >= began && expires <= Date.now(), expires_at);
    assert.deepEqual(rest, {
      response: '您好！',
      cached: false,
      model: 'fake-model',
      format: 'markdown',
      finish_reason: 'stop',
      usage: { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 },
      persisted: true,
    });
    assert(answer.text.includes('您好！'), 'characters are escaped');
  });

  it('lists members and query parameters that it does not use, also in cached and repeated replies and in the stream', async () => {
    chat.upstream.respond([reply('plain')]);
    const body = { message: 'list them', temperature: 0, conversationId: 'x', prompt: { a: [1] } };
    const ignored = ['temperature', 'conversationId', 'prompt', '?model'];
    const key = { 'idempotency-key': 'ignored-1' };
    for (const headers of [key, key, {}] as Record<string, string>[]) {
      const answer = await chat.call('POST', '/api/chat?model=other', body, headers);
      assert.deepEqual(JSON.parse(answer.text).ignored, ignored);
    }
    const stream = await openStream(chat.url, body);
    assert.deepEqual((await stream.until('start')).data.ignored, ignored.slice(0, -1));
    for (const path of ['/api/chat', '/api/chat-stream']) {
      const asked = chat.upstream.requests.length;
      const answer = await chat.call('POST', `${path}?a=1&b=2`, { message: 'list them' });
      assert.match(answer.text, /"ignored":\["\?a","\?b"\]/);
      problemOf(await chat.call('POST', `${path}?a=1&a=2`, { message: 'twice' }), 400, 'validation');
      assert.equal(chat.upstream.requests.length, asked, 'the first is cached, the second is not asked');
    }
    assert((await stream.rest()).every(({ data }) => !('ignored' in data)));
    const odd = JSON.parse(`{"message":"many","__proto__":1,"${'x'.repeat(100)}":2,"\\ud800":3}`);
    for (let index = 0; index < 40; index += 1) odd[`member${index}`] = index;
    const names = JSON.parse((await chat.call('POST', '/api/chat', odd)).text).ignored;
    assert.deepEqual(names.slice(0, 4), ['__proto__', 'x'.repeat(64), '\ufffd', 'member0']);
    assert.equal(names.length, 20);
  });

  it('has one warning in the log when the model server fails, and the code in the request line', async () => {
    chat.upstream.respond([status(500)]);
    const linesOf = (id: string) => chat.server.lines.filter((line) => line.request_id === id);
    const answer = await chat.call(
      'POST',
      '/api/chat',
      { message: 'log me' },
      { 'x-request-id': 'failed-1' },
    );
    const { code } = problemOf(answer, answer.status, String(JSON.parse(answer.text).code));
    await until('the request line', () => linesOf('failed-1').some(({ msg }) => msg === 'request'));
    const lines = linesOf('failed-1');
    assert.deepEqual(
      lines.filter(({ level }) => level !== 'info' && level !== 'debug').map(({ msg }) => msg),
      ['upstream call failed'],
    );
    const line = lines.find(({ msg }) => msg === 'request');
    assert.deepEqual([line?.code, line?.cache, line?.prompt_tokens], [code, 'miss', undefined]);
  });

  it('logs the time to the first token of a stream, and tokens only for the call that took them', async () => {
    chat.upstream.respond([reply('timed')]);
    const linesOf = (id: string) => chat.server.lines.filter((line) => line.request_id === id);
    for (const id of ['timed-1', 'timed-2']) {
      const stream = await openStream(chat.url, { message: 'time me' }, { headers: { 'x-request-id': id } });
      await stream.rest();
      await until('the request line', () => linesOf(id).some(({ msg }) => msg === 'request'));
    }
    const [first, second] = ['timed-1', 'timed-2'].map((id) =>
      linesOf(id).find(({ msg }) => msg === 'request'),
    );
    assert(Number(first?.first_token_ms) > 0 && Number(first?.first_token_ms) <= Number(first?.ms));
    assert.deepEqual([first?.cache, first?.completion_tokens, first?.model], ['miss', 5, 'fake-model']);
    assert.deepEqual([second?.cache, second?.completion_tokens], ['hit', undefined]);
  });

  it('has stored the whole turn when it responds, with the same end as the conversation', async () => {
    const told = await chat.ask({ message: 'store me' });
    const { conversation_id, expires_at, response } = told;
    const stored = await chat.read(conversation_id);
    assert.deepEqual(
      stored.messages.map(({ role, content, status }) => [role, content, status]),
      [
        ['user', 'store me', 'complete'],
        ['assistant', response, 'complete'],
      ],
    );
    const ids = stored.messages.map(({ id }) => id);
    assert.deepEqual(ids, [told.question_id, told.message_id]);
    assert.equal(stored.expires_at, expires_at);
    const [question, answer] = await chat.rows(conversation_id);
    assert.equal(answer?.reply_to, question?.uid);
  });

  it('returns Markdown unless text is requested, and always stores Markdown', async () => {
    const markdown =
      '# 标题\n\n**注意：**请先保存 `snake_case`，见[文档](https://x.example/a_b)。\n\n- 2 ** 3\n';
    const shown: string[] = [];
    for (const format of [undefined, 'markdown', 'text']) {
      chat.upstream.respond([reply(markdown)]);
      const answer = await chat.ask({ message: `in ${format}`, ...(format ? { format } : {}) });
      assert.equal(answer.format, format ?? 'markdown');
      shown.push(answer.response);
      assert.equal((await chat.read(answer.conversation_id)).messages[1]?.content, markdown);
    }
    assert.deepEqual(shown.slice(0, 2), [markdown, markdown]);
    assert.equal(
      shown[2]?.trimEnd(),
      '标题\n\n注意：请先保存 snake_case，见文档 (https://x.example/a_b)。\n\n- 2 ** 3',
    );
  });

  for (const [given, told] of [
    ['stop', 'stop'],
    ['length', 'length'],
    ['content_filter', 'content_filter'],
    ['tool_calls', 'stop'],
  ] as const) {
    it(`returns ${told} for the model's "${given}", and stores a complete message`, async () => {
      chat.upstream.respond([reply('x', { finishReason: given })]);
      const answer = await chat.ask({ message: `end ${given}` });
      assert.equal(answer.finish_reason, told);
      const [, row] = await chat.rows(answer.conversation_id);
      assert.deepEqual([row?.finish_reason, row?.status], [told, 'complete']);
    });
  }

  it('returns no usage if the model sends none', async () => {
    chat.upstream.respond([reply('x', { usage: false })]);
    assert.equal((await chat.ask({ message: 'uncounted' })).usage, null);
  });

  it('asks the model that the caller names instead of the default', async () => {
    const before = chat.upstream.requests.length;
    await chat.ask({ message: 'whom', model: 'another/model:7b' });
    await chat.ask({ message: 'whom' });
    const models = chat.upstream.requests.slice(before).map(({ body }) => body.model);
    assert.deepEqual(models, ['another/model:7b', 'gpt-4o-mini']);
  });

  it('takes the message unchanged', async () => {
    for (const message of ['  two spaces and a line \n\n', '\tx', '\u00a0nbsp\u00a0', '\ufeffbom', ODD]) {
      const { response, conversation_id } = await chat.ask({ message });
      assert.equal(response, `echo: ${message}`);
      assert.equal((await chat.read(conversation_id)).messages[0]?.content, message);
    }
  });

  it('returns an upper-case id in lower case, as the same conversation', async () => {
    const id = '0198C0DE-7A11-7000-8000-5EED00000AAA';
    const first = await chat.ask({ message: 'upper', conversation_id: id });
    const second = await chat.ask({ message: 'lower', conversation_id: id.toLowerCase() });
    assert.deepEqual([first.conversation_id, second.conversation_id], [id.toLowerCase(), id.toLowerCase()]);
    assert.equal((await chat.read(id)).messages.length, 4);
    assert.equal((await chat.read(id)).conversation_id, id.toLowerCase());
  });

  it('ignores unknown members', async () => {
    const { response } = await chat.ask({ message: 'more', users: 'x', temperature: 2, stream: true });
    assert.equal(response, 'echo: more');
    assert.deepEqual(Object.keys(chat.upstream.requests.at(-1)?.body ?? {}).sort(), [
      'messages',
      'model',
      'stream',
    ]);
  });

  it('stores nothing and calls no model when the caller disconnects during the body', async () => {
    const before = [await chat.countRows(), chat.upstream.requests.length];
    const text = JSON.stringify({ message: 'cut off' });
    const head = `POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n`;
    const gone = () =>
      chat.server.lines.filter(({ msg, client }) => msg === 'request' && client === 'gone').length;
    for (const sent of [0, 1, text.length - 1]) {
      const count = gone();
      const socket = connect(Number(new URL(chat.url).port), '127.0.0.1');
      socket.end(head + text.slice(0, sent));
      socket.resume();
      await until('the access line', () => gone() > count);
      socket.destroy();
    }
    assert.deepEqual([await chat.countRows(), chat.upstream.requests.length], before);
  });

  describe('when the model server', () => {
    const leaky = `Incorrect API key provided: ${KEY}. upstream says no`;
    const body = JSON.stringify({ error: { message: leaky } });
    const html = status(200, { 'content-type': 'text/html' }, `<html>${leaky}</html>`);
    const cases: [what: string, handler: Handler, status: number, code: string, retryAfter?: string][] = [
      ['is busy (429)', status(429, {}, body), 503, 'upstream_busy', '5'],
      ['names an hour', status(429, { 'retry-after': '3600' }, body), 503, 'upstream_busy', '3600'],
      ['is away (503)', status(503, { 'retry-after': '30' }, body), 503, 'upstream_busy', '30'],
      ['fails (500)', status(500, {}, body), 502, 'upstream_error'],
      ['knows no such key (401)', status(401, {}, body), 502, 'upstream_error'],
      ['forbids it (403)', status(403, {}, body), 502, 'upstream_error'],
      ['wants it otherwise (400)', status(400, {}, body), 502, 'upstream_rejected'],
      ['has no such model (404)', status(404, {}, body), 502, 'upstream_rejected'],
      ['answers nothing', hang(), 504, 'upstream_timeout'],
      ['answers garbage', status(200, {}, `{"choices":[${leaky}`), 502, 'upstream_error'],
      ['answers with a page', html, 502, 'upstream_error'],
      ['answers without a choice', json({ choices: [] }), 502, 'upstream_empty'],
      ['says nothing', reply(''), 502, 'upstream_empty'],
      ['hides an error in a 200', json({ error: { message: leaky, code: 500 } }), 502, 'upstream_error'],
    ];
    for (const [what, handler, code, name, retryAfter] of cases) {
      it(`${what}, the response is ${code} ${name}, and the question is stored`, async () => {
        const id = crypto.randomUUID();
        const message = `question of ${id}`;
        const before = chat.upstream.requests.length;
        chat.upstream.respond([handler]);
        const answer = await chat.call('POST', '/api/chat', { message, conversation_id: id });
        problemOf(answer, code, name);
        assert.equal(answer.headers['retry-after'], retryAfter);
        assert.equal(chat.upstream.requests.length - before, 1);
        assert.doesNotMatch(answer.text, /upstream says no|sk-test|Incorrect/);
        assert.deepEqual(
          (await chat.rows(id)).map(({ role, content }) => [role, content]),
          [['user', message]],
        );
      });
    }

    it('fails, the next question does not send the unanswered one', async () => {
      const id = crypto.randomUUID();
      chat.upstream.respond([status(500), reply('yes')]);
      await chat.call('POST', '/api/chat', { message: 'lonely', conversation_id: id });
      await chat.ask({ message: 'again', conversation_id: id });
      assert.deepEqual(chat.upstream.requests.at(-1)?.body.messages, [{ role: 'user', content: 'again' }]);
      assert.deepEqual(
        (await chat.read(id)).messages.map(({ content }) => content),
        ['lonely', 'again', 'yes'],
      );
    });

    it('fails, the question of a new conversation is stored too', async () => {
      const before = await chat.countRows();
      chat.upstream.respond([status(500)]);
      await chat.call('POST', '/api/chat', { message: 'question of nobody' });
      const { conversations, messages } = await chat.countRows();
      assert.deepEqual([conversations, messages], [before.conversations + 1, before.messages + 1]);
    });

    it('fails, no log line has the key or the question', () => {
      const log = JSON.stringify(chat.server.lines);
      assert.match(log, /upstream_error/);
      assert.doesNotMatch(log, /sk-test|question of|lonely|store me/);
    });
  });
});

describe('POST /api/chat with retries', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({ OPENAI_MAX_RETRIES: '2' });
  });
  after(() => chat.stop());
  const soon = { 'retry-after-ms': '1' };

  it('retries after a transient error, unnoticed by the caller', async () => {
    chat.upstream.respond([status(500, soon), status(429, soon), reply('at last')]);
    assert.equal((await chat.ask({ message: 'x' })).response, 'at last');
    assert.equal(chat.upstream.requests.length, 3);
  });

  it('retries twice at most, and not after a permanent error', async () => {
    for (const [handler, attempts] of [
      [status(500, soon), 3],
      [status(401), 1],
      [status(400), 1],
      [status(429, { 'retry-after': '3600' }), 1],
    ] as const) {
      const before = chat.upstream.requests.length;
      chat.upstream.respond(handler);
      await chat.call('POST', '/api/chat', { message: `attempts ${attempts}`, cache: false });
      assert.equal(chat.upstream.requests.length - before, attempts);
    }
  });

  it('is 502 if the model server resets every connection, or none listens', async (t) => {
    const alone = await startChat();
    t.after(() => alone.stop());
    alone.upstream.respond(resetAtOnce());
    problemOf(await alone.call('POST', '/api/chat', { message: 'x' }), 502, 'upstream_error');
    await alone.upstream.close();
    problemOf(await alone.call('POST', '/api/chat', { message: 'x' }), 502, 'upstream_error');
  });
});

describe('POST /api/chat with settings', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({
      SYSTEM_PROMPT: '你是 a helper.\nBe brief.',
      OPENAI_TEMPERATURE: '0.5',
      OPENAI_MAX_TOKENS: '77',
      OPENAI_MODEL: 'my-model',
      OPENAI_HEADERS: '{"x-team":"blue"}',
      MAX_GENERATIONS: '1',
    });
  });
  after(() => chat.stop());

  it('sends model, system prompt, temperature, token limit, key and extra headers', async () => {
    await chat.ask({ message: 'hi' });
    const [sent] = chat.upstream.requests;
    assert.deepEqual(sent?.body, {
      model: 'my-model',
      messages: [
        { role: 'system', content: '你是 a helper.\nBe brief.' },
        { role: 'user', content: 'hi' },
      ],
      temperature: 0.5,
      max_tokens: 77,
      stream: false,
    });
    assert.deepEqual([sent.headers.authorization, sent.headers['x-team']], [`Bearer ${KEY}`, 'blue']);
  });

  it('is 503 capacity, storing nothing, while MAX_GENERATIONS calls are open, and works afterwards', async () => {
    const gate = createGate();
    const number = chat.upstream.requests.length + 1;
    chat.upstream.respond([held(gate, reply('slow'))]);
    const first = chat.ask({ message: 'slow one' });
    await chat.upstream.waitForRequest(number);
    for (const path of ['/api/chat', '/api/chat-stream']) {
      const id = crypto.randomUUID();
      const refused = await chat.call('POST', path, { message: 'one too many', conversation_id: id });
      problemOf(refused, 503, 'capacity');
      assert.equal(refused.headers['retry-after'], '1');
      assert.equal((await chat.call('GET', `/api/conversations/${id}`)).status, 404);
    }
    assert.equal((await chat.ask({ message: 'hi' })).cached, true, 'a cached reply needs no call');
    gate.open();
    assert.equal((await first).response, 'slow');
    assert.equal((await chat.ask({ message: 'room again' })).response, 'echo: room again');
  });
});

for (const place of databases()) {
  describe(`what is stored, on ${place.name},`, () => {
    let chat: ChatServer;
    let now = Date.UTC(2026, 2, 21, 8, 30, 0, 7);
    before(async () => {
      const env = { HISTORY_LIMIT: '4', ...(await place.create()) };
      chat = await startChat(env, { clock: { now: () => now } });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const lastContext = () => chat.upstream.requests.at(-1)?.body.messages.map(({ content }) => content);

    it('comes back identical from reply, stream, conversation and row', async () => {
      chat.upstream.respond([reply(ODD), reply(ODD, { chunks: 50 })]);
      const whole = await chat.ask({ message: ODD, cache: false });
      assert.equal(whole.response, ODD);
      const stream = await openStream(chat.url, { message: ODD, format: 'markdown', cache: false });
      const events = await stream.rest();
      assert.equal(joined(events), ODD);
      for (const id of [whole.conversation_id, String(stream.headers['x-conversation-id'])]) {
        assert.deepEqual(
          (await chat.read(id)).messages.map(({ content }) => content),
          [ODD, ODD],
        );
        assert.deepEqual(
          (await chat.rows(id)).map(({ content }) => content),
          [ODD, ODD],
        );
      }
    });

    it('is sent as context: the newest whole turns, oldest first', async () => {
      const id = crypto.randomUUID();
      for (const message of ['1', '2', '3', '4']) await chat.ask({ message, conversation_id: id });
      assert.deepEqual(lastContext(), ['2', 'echo: 2', '3', 'echo: 3', '4']);
      assert.deepEqual(
        chat.upstream.requests.at(-1)?.body.messages.map(({ role }) => role),
        ['user', 'assistant', 'user', 'assistant', 'user'],
      );
    });

    it('is paired when turns of one conversation run at the same time', async () => {
      const id = crypto.randomUUID();
      const [a, b] = [createGate(), createGate()];
      const from = chat.upstream.requests.length;
      chat.upstream.respond([held(a, reply('to A'))]);
      const first = chat.ask({ message: 'A', conversation_id: id });
      await chat.upstream.waitForRequest(from + 1);
      chat.upstream.respond([held(b, reply('to B'))]);
      const second = chat.ask({ message: 'B', conversation_id: id });
      await chat.upstream.waitForRequest(from + 2);
      assert.deepEqual(lastContext(), ['B'], 'a turn under way is in no context');
      b.open();
      await second;
      await chat.ask({ message: 'C', conversation_id: id });
      assert.deepEqual(lastContext(), ['B', 'to B', 'C']);
      a.open();
      await first;
      await chat.ask({ message: 'D', conversation_id: id });
      assert.deepEqual(lastContext(), ['B', 'to B', 'C', 'echo: C', 'D']);
      const rows = await chat.rows(id);
      const uidOf = (content: string) => rows.find((row) => row.content === content)?.uid;
      assert.equal(rows.find(({ content }) => content === 'to A')?.reply_to, uidOf('A'));
      assert.equal(rows.find(({ content }) => content === 'to B')?.reply_to, uidOf('B'));
    });

    it('creates a conversation with the id of a deleted one', async () => {
      const id = crypto.randomUUID();
      await chat.ask({ message: 'before', conversation_id: id });
      assert.equal((await chat.call('DELETE', `/api/conversations/${id}`)).status, 200);
      const { conversation_id } = await chat.ask({ message: 'after', conversation_id: id });
      assert.equal(conversation_id, id);
      assert.deepEqual(lastContext(), ['after']);
      assert.deepEqual(
        (await chat.rows(id)).map(({ content }) => content),
        ['after', 'echo: after'],
      );
    });

    it('creates a conversation with the id of an expired one, whose messages are then gone', async () => {
      const id = crypto.randomUUID();
      await chat.ask({ message: 'old', conversation_id: id });
      now += 24 * HOUR;
      await chat.ask({ message: 'just in time', conversation_id: id });
      assert.deepEqual(lastContext(), ['old', 'echo: old', 'just in time']);
      now += 24 * HOUR + 1;
      const answer = await chat.ask({ message: 'new', conversation_id: id });
      assert.deepEqual(lastContext(), ['new']);
      const stored = await chat.read(id);
      assert.deepEqual(
        stored.messages.map(({ content }) => content),
        ['new', 'echo: new'],
      );
      const { knex } = chat.server.database;
      await until(
        'the old rows are removed',
        async () => (await knex('messages').where({ conversation_id: id })).length === 2,
      );
      assert.equal(stored.created_at, new Date(now).toISOString());
      assert.equal(stored.expires_at, new Date(now + 24 * HOUR).toISOString());
      assert.equal(answer.expires_at, stored.expires_at);
    });
  });
}

describe('while the database is unavailable', () => {
  it('a question that needs the history is 503 with Retry-After, without driver details', async (t) => {
    const chat = await startChat();
    t.after(() => chat.stop());
    await chat.server.database.knex.destroy();
    for (const path of ['/api/chat', '/api/chat-stream']) {
      const answer = await chat.call('POST', path, { message: 'x', conversation_id: crypto.randomUUID() });
      problemOf(answer, 503, 'database_unavailable');
      assert.equal(answer.headers['retry-after'], '2');
      assert.doesNotMatch(answer.text, /knex|pool|sqlite|destroy/i);
    }
    assert.equal(chat.upstream.requests.length, 0);
  });

  it('one without a history succeeds and is journalled, and so are later ones', async (t) => {
    const chat = await startChat();
    t.after(() => chat.stop());
    await chat.server.database.knex.destroy();
    const first = await chat.ask({ message: 'first' });
    assert.deepEqual([first.response, first.persisted], ['echo: first', false]);
    const id = first.conversation_id;
    const next = await chat.ask({ message: 'next', conversation_id: id });
    assert.deepEqual([next.response, next.persisted, next.conversation_id], ['echo: next', false, id]);
    const context = z.object({ messages: z.array(z.object({ content: z.string() })) });
    const { messages } = context.parse(chat.upstream.requests.at(-1)?.body);
    assert.deepEqual(
      messages.map(({ content }) => content),
      ['first', 'echo: first', 'next'],
    );
  });

  it('after the question, the caller still gets the reply, marked as not persisted', async (t) => {
    const chat = await startChat();
    t.after(() => chat.stop());
    const gate = createGate();
    chat.upstream.respond([held(gate, reply('too good to lose'))]);
    const asked = chat.ask({ message: 'x', conversation_id: crypto.randomUUID() });
    await until('the question', async () => (await chat.countRows()).messages === 2);
    await chat.server.database.knex.destroy();
    gate.open();
    const { response, persisted } = await asked;
    assert.deepEqual([response, persisted], ['too good to lose', false]);
  });
});
