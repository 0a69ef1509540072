import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import {
  type Answer,
  type ChatServer,
  databases,
  problemOf,
  startChat,
  until,
} from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  finish,
  type Gate,
  hang,
  reply,
  script,
  status,
  thenReset,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { type Pair, startPair } from '../support/pair.ts';
import { sendRaw } from '../support/raw-http.ts';
import { checkStream, joined, openStream, resumeStream, type SseReader } from '../support/sse-client.ts';

const newKey = () => `key-${crypto.randomUUID()}`;

/** POST /api/chat with a key. */
function ask(chat: ChatServer, key: string, body: object = {}): Promise<Answer> {
  return chat.call('POST', '/api/chat', { message: 'q', cache: false, ...body }, { 'idempotency-key': key });
}

/** POST /api/chat-stream with a key. */
function stream(chat: ChatServer, key: string, body: object = {}): Promise<SseReader> {
  const asked = { message: 'q', cache: false, ...body };
  return openStream(chat.url, asked, { headers: { 'idempotency-key': key } });
}

function replyOf(answer: Answer): Record<string, unknown> {
  assert.equal(answer.status, 200, answer.text);
  return JSON.parse(answer.text);
}

const replayed = ({ headers }: Answer | SseReader) => headers['idempotent-replayed'];

const times = <T>(count: number, run: (n: number) => T): T[] =>
  Array.from({ length: count }, (_, n) => run(n));

/** What is stored of a conversation. */
async function stored(chat: ChatServer, conversation: unknown): Promise<[string, string, string][]> {
  const rows = await chat.rows(String(conversation));
  return rows.map(({ role, content, status: how }) => [role, content, how]);
}

/** A reply whose second half is behind the gate. */
const halves = (gate: Gate) =>
  script(delta('Half '), wait(gate), delta('and half 😀'), finish(), usage(), done());

for (const place of databases()) {
  describe(`Idempotency-Key, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({ ...(await place.create()), SSE_OPEN_MS: '600000' });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    /** How often the model was asked meanwhile. */
    const calls = async (run: () => Promise<unknown>) => {
      const before = chat.upstream.requests.length;
      await run();
      return chat.upstream.requests.length - before;
    };

    it('replays the stored reply, byte for byte, and marks it', async () => {
      const key = newKey();
      const first = await ask(chat, key, { message: 'once' });
      assert.equal(replayed(first), undefined);
      assert.equal(first.headers['cache-status'], 'chat; fwd=bypass');
      const count = await calls(async () => {
        for (const again of await Promise.all(times(5, () => ask(chat, key, { message: 'once' })))) {
          assert.equal(again.text, first.text);
          assert.equal(replayed(again), 'true');
          assert.equal(again.headers['cache-status'], undefined);
        }
      });
      assert.equal(count, 0);
      assert.deepEqual(await stored(chat, replyOf(first).conversation_id), [
        ['user', 'once', 'complete'],
        ['assistant', 'echo: once', 'complete'],
      ]);
    });

    it('makes one call and one turn for 50 concurrent questions, with the same response for all', async () => {
      for (const conversation_id of [undefined, crypto.randomUUID()]) {
        const key = newKey();
        const gate = createGate();
        chat.upstream.respond([
          async (exchange) => {
            await wait(gate)(exchange);
            await reply('one for all')(exchange);
          },
        ]);
        const before = await chat.countRows();
        const number = chat.upstream.requests.length + 1;
        const asking = Promise.all(times(50, () => ask(chat, key, { conversation_id })));
        await chat.upstream.waitForRequest(number);
        gate.open();
        const answers = await asking;
        assert.equal(chat.upstream.requests.length, number);
        assert.equal(new Set(answers.map(({ text }) => text)).size, 1);
        assert.equal(replyOf(answers[0] as Answer).response, 'one for all');
        assert.equal(answers.filter((answer) => replayed(answer) === undefined).length, 1);
        const rows = await chat.countRows();
        assert.deepEqual(
          [rows.conversations - before.conversations, rows.messages - before.messages],
          [1, 2],
        );
      }
    });

    it('joins a stream that is running, and replays it when it has ended', async () => {
      const key = newKey();
      const gate = createGate();
      chat.upstream.respond([halves(gate)]);
      const first = await stream(chat, key, { format: 'markdown' });
      const second = await stream(chat, key, { format: 'markdown' });
      const early = [await second.until('start'), await second.until('content')];
      assert.equal(joined(early), 'Half ');
      gate.open();
      const events = await first.rest();
      const end = checkStream(events);
      assert.equal(joined(events), 'Half and half 😀');
      const late = await stream(chat, key, { format: 'markdown' });
      for (const told of [[...early, ...(await second.rest())], await late.rest()]) {
        assert.deepEqual(checkStream(told).data, end.data);
        assert.equal(checkStream(told).id, end.id);
        assert.equal(joined(told), joined(events));
        assert.equal(told[0]?.data.cached, false);
      }
      assert.deepEqual([first, second, late].map(replayed), [undefined, 'true', 'true']);
      assert.equal(first.headers['cache-status'], 'chat; fwd=bypass');
      for (const { headers } of [second, late]) {
        assert.equal(headers['cache-status'], undefined);
        assert.equal(headers['x-stream-id'], first.headers['x-stream-id']);
        assert.equal(headers['x-conversation-id'], first.headers['x-conversation-id']);
      }
      // Which is the stream that can be gone on with.
      const id = String(first.headers['x-stream-id']);
      const rest = await (await resumeStream(chat.url, id, { lastEventId: `${id}:5` })).rest();
      assert.equal(joined(rest), 'and half 😀');
      // And so does a client that repeats its question with what it has, as fetch-event-source does.
      const repeated = await openStream(
        chat.url,
        { message: 'q', cache: false, format: 'markdown' },
        { headers: { 'idempotency-key': key, 'last-event-id': `${id}:5` } },
      );
      const again = await repeated.rest();
      assert.equal(joined(again), 'and half 😀');
      assert.equal(checkStream(again).id, end.id);
    });

    it('makes one call for 50 concurrent streams', async () => {
      const key = newKey();
      const gate = createGate();
      chat.upstream.respond([halves(gate)]);
      let told: [string, string, unknown][] = [];
      const count = await calls(async () => {
        const readers = await Promise.all(times(50, () => stream(chat, key)));
        gate.open();
        told = await Promise.all(
          readers.map(async (reader): Promise<[string, string, unknown]> => {
            const events = await reader.rest();
            return [joined(events), String(reader.headers['x-stream-id']), checkStream(events).data];
          }),
        );
      });
      assert.equal(count, 1);
      for (const one of told) assert.deepEqual(one, told[0]);
      assert.equal(told[0]?.[0], 'Half and half 😀');
    });

    it('is the same key bare and quoted, and another one on the other route', async () => {
      const key = newKey();
      const first = await ask(chat, key);
      assert.equal((await ask(chat, `"${key}"`)).text, first.text);
      const other = await stream(chat, key);
      assert.equal(replayed(other), undefined);
      assert.notEqual(other.headers['x-stream-id'], replyOf(first).message_id);
      await other.rest();
      const again = await stream(chat, `"${key}"`);
      assert.equal(again.headers['x-stream-id'], other.headers['x-stream-id']);
      await again.rest();
    });

    it('rejects another question with 422, during and after the first', async () => {
      const key = newKey();
      const gate = createGate();
      const body = { message: 'this', format: 'markdown', conversation_id: crypto.randomUUID() };
      const others = [
        { ...body, message: 'that' },
        { ...body, format: 'text' },
        { ...body, model: 'another' },
        { ...body, cache: true },
        { ...body, conversation_id: crypto.randomUUID() },
        { ...body, conversation_id: undefined },
      ];
      chat.upstream.respond([halves(gate)]);
      const first = await stream(chat, key, body);
      const refuse = async () => {
        for (const other of others) {
          const headers = { 'idempotency-key': key };
          const asked = { cache: false, ...other };
          const answer = await chat.call('POST', '/api/chat-stream', asked, headers);
          problemOf(answer, 422, 'idempotency_mismatch');
          assert.equal(replayed(answer), undefined);
        }
      };
      assert.equal(await calls(refuse), 0);
      gate.open();
      await first.rest();
      assert.equal(await calls(refuse), 0);
    });

    it('ignores how the same question is encoded', async () => {
      const key = newKey();
      const conversation_id = crypto.randomUUID();
      const first = await ask(chat, key, { conversation_id });
      const same = [
        { conversation_id: conversation_id.toUpperCase() },
        { conversation_id, format: 'markdown' },
        { conversation_id, unknown: 'member' },
      ];
      for (const body of same) {
        // A member that is not known is listed, and is no other question.
        const { ignored, ...reply } = JSON.parse((await ask(chat, key, body)).text);
        assert.deepEqual(ignored, 'unknown' in body ? ['unknown'] : undefined);
        assert.deepEqual(reply, JSON.parse(first.text));
      }
    });

    it('is not rejected because another owner used it for another question at the same time', async () => {
      const key = newKey();
      const first = await ask(chat, key, { message: 'right' });
      for (const round of times(5, (n) => n)) {
        const answers = await Promise.all(
          times(6, (n) => ask(chat, key, { message: n % 2 === round % 2 ? 'wrong' : 'right' })),
        );
        for (const [n, answer] of answers.entries()) {
          if (n % 2 === round % 2) problemOf(answer, 422, 'idempotency_mismatch');
          else assert.equal(answer.text, first.text);
        }
      }
    });

    it('is rejected when it is malformed', async () => {
      const { hostname, port } = new URL(chat.url);
      const body = '{"message":"q"}';
      const post = async (path: string, ...lines: string[]) => {
        const head = `POST ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nContent-Type: application/json\r\n`;
        const text = `${head}Content-Length: ${body.length}\r\n${lines.join('\r\n')}\r\n\r\n${body}`;
        return (await sendRaw(chat.url, Buffer.from(text, 'utf8')))[0];
      };
      const malformed = [
        [''],
        ['k'.repeat(256)],
        [`"${'k'.repeat(256)}"`],
        ['""'],
        ['two words'],
        ['"unclosed'],
        ['schlüssel'],
        ['密钥'],
        ['tab\tinside'],
        ['bell\u0007'],
        ['del\u007f'],
        ['one', 'one'],
        ['one', 'two'],
      ];
      const count = await calls(async () => {
        for (const path of ['/api/chat', '/api/chat-stream']) {
          for (const lines of malformed) {
            const answer = await post(path, ...lines.map((line) => `Idempotency-Key: ${line}`));
            assert.equal(answer?.status, 400, JSON.stringify(lines));
            const document = JSON.parse(answer.body);
            assert.match(document.code, /^(validation|malformed_request)$/);
          }
        }
      });
      assert.equal(count, 0);
      assert.equal((await post('/api/chat', `Idempotency-Key: ${'k'.repeat(255)}`))?.status, 200);
    });

    it('has the cache status of the original response in each repetition', async () => {
      await chat.ask({ message: 'known' });
      const key = newKey();
      const body = { message: 'known', cache: true };
      const count = await calls(async () => {
        const answers = await Promise.all(times(10, () => ask(chat, key, body)));
        answers.push(await ask(chat, key, body));
        assert.equal(new Set(answers.map(({ text }) => text)).size, 1);
        assert.equal(replyOf(answers[0] as Answer).cached, true);
        assert.deepEqual((await stored(chat, replyOf(answers[0] as Answer).conversation_id)).length, 2);
        const streamed = newKey();
        for (const wanted of [undefined, 'true']) {
          const reader = await stream(chat, streamed, body);
          const events = await reader.rest();
          checkStream(events);
          assert.deepEqual([events[0]?.data.cached, replayed(reader)], [true, wanted]);
          assert.equal(joined(events), 'echo: known');
        }
      });
      assert.equal(count, 0);
    });

    it('is free again after the model failed, and the question is not stored twice', async () => {
      const key = newKey();
      const conversation_id = crypto.randomUUID();
      const body = { message: 'try', conversation_id };
      chat.upstream.respond([status(500), status(500)]);
      for (const _ of [1, 2]) problemOf(await ask(chat, key, body), 502, 'upstream_error');
      assert.deepEqual(await stored(chat, conversation_id), [['user', 'try', 'complete']]);
      const answer = await ask(chat, key, body);
      assert.deepEqual([replyOf(answer).response, replayed(answer)], ['echo: try', undefined]);
      assert.equal((await ask(chat, key, body)).text, answer.text);
      assert.deepEqual(await stored(chat, conversation_id), [
        ['user', 'try', 'complete'],
        ['assistant', 'echo: try', 'complete'],
      ]);
      assert.deepEqual(
        chat.upstream.requests.at(-1)?.body.messages.map(({ content }) => content),
        ['try'],
      );
    });

    it('returns the error’s status to 50 concurrent requests, and allows retries', async () => {
      for (const path of ['/api/chat', '/api/chat-stream']) {
        const key = newKey();
        const gate = createGate();
        chat.upstream.respond([
          async (exchange) => {
            await wait(gate)(exchange);
            await status(401)(exchange);
          },
        ]);
        const number = chat.upstream.requests.length + 1;
        const post = () =>
          chat.call('POST', path, { message: 'all fail', cache: false }, { 'idempotency-key': key });
        const asking = times(50, post);
        await chat.upstream.waitForRequest(number);
        // Those who come late find the call under way.
        gate.open();
        const answers = await Promise.all(asking);
        const again = await post();
        assert.equal(again.status, 200);
        for (const answer of answers) {
          if (answer.status === 200) continue; // began after the fault: its own try
          problemOf(answer, 502, 'upstream_error');
        }
        assert(answers.filter((answer) => answer.status === 502).length > 1);
        assert(chat.upstream.requests.length <= number + 1);
      }
    });

    it('replaces the text of a failed attempt by the reply of the second', async () => {
      const key = newKey();
      const conversation_id = crypto.randomUUID();
      const body = { message: 'try', conversation_id, format: 'markdown' };
      chat.upstream.respond([thenReset('Half a '), reply('A whole reply')]);
      const first = await stream(chat, key, body);
      assert.equal(checkStream(await first.rest()).type, 'error');
      const second = await stream(chat, key, body);
      assert.notEqual(second.headers['x-stream-id'], first.headers['x-stream-id']);
      assert.equal(joined(await second.rest()), 'A whole reply');
      assert.deepEqual(
        chat.upstream.requests.at(-1)?.body.messages.map(({ content }) => content),
        ['try'],
        'the model hears the question once, and nothing of what it said to it before',
      );
      assert.equal(replayed(second), undefined);
      assert.deepEqual(await stored(chat, conversation_id), [
        ['user', 'try', 'complete'],
        ['assistant', 'A whole reply', 'complete'],
      ]);
      const third = await stream(chat, key, body);
      assert.equal(third.headers['x-stream-id'], second.headers['x-stream-id']);
      await third.rest();
      const gone = await chat.call('GET', `/api/chat-stream/${first.headers['x-stream-id']}`);
      problemOf(gone, 404, 'stream_not_found');
      await ask(chat, newKey(), { message: 'next', conversation_id });
      assert.deepEqual(
        chat.upstream.requests.at(-1)?.body.messages.map(({ content }) => content),
        ['try', 'A whole reply', 'next'],
      );
    });

    it('replays a stopped reply, which is no failure', async () => {
      const key = newKey();
      const gate = createGate();
      chat.upstream.respond([halves(gate)]);
      const first = await stream(chat, key, { format: 'markdown' });
      const events = [await first.until('start'), await first.until('content')];
      const id = String(first.headers['x-stream-id']);
      assert.equal((await chat.call('DELETE', `/api/chat-stream/${id}`)).status, 200);
      events.push(...(await first.rest()));
      const again = await stream(chat, key, { format: 'markdown' });
      const told = await again.rest();
      assert.deepEqual(checkStream(told).data, checkStream(events).data);
      assert.deepEqual([joined(told), replayed(again)], ['Half ', 'true']);
    });

    it('is free when its conversation was deleted, also during the reply', async () => {
      const key = newKey();
      const first = replyOf(await ask(chat, key));
      const remove = (id: unknown) => chat.call('DELETE', `/api/conversations/${id}`);
      assert.equal((await remove(first.conversation_id)).status, 200);
      const second = await ask(chat, key);
      assert.equal(replayed(second), undefined);
      assert.notEqual(replyOf(second).message_id, first.message_id);
      // For another question too.
      assert.equal((await remove(replyOf(second).conversation_id)).status, 200);
      assert.equal(replyOf(await ask(chat, key, { message: 'other' })).response, 'echo: other');

      const running = newKey();
      const conversation_id = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([hang()]);
      const asking = ask(chat, running, { conversation_id });
      await chat.upstream.waitForRequest(number);
      assert.equal((await remove(conversation_id)).status, 200);
      problemOf(await asking, 404, 'conversation_not_found');
      assert.deepEqual(await stored(chat, conversation_id), []);
      const anew = replyOf(await ask(chat, running, { conversation_id }));
      assert.equal(anew.response, 'echo: q');
      assert.equal((await stored(chat, conversation_id)).length, 2);
    });

    it('continues its conversation with the current history', async () => {
      const first = replyOf(await ask(chat, newKey(), { message: 'one' }));
      const { conversation_id } = first;
      const key = newKey();
      await ask(chat, key, { message: 'two', conversation_id });
      assert.deepEqual(
        chat.upstream.requests.at(-1)?.body.messages.map(({ content }) => content),
        ['one', 'echo: one', 'two'],
      );
      assert.equal((await stored(chat, conversation_id)).length, 4);
    });
  });

  describe(`Idempotency-Key on two servers, on ${place.name},`, () => {
    let pair: Pair;
    before(async () => {
      pair = await startPair(place, { SSE_OPEN_MS: '600000', CHECKPOINT_MS: '50' });
    });
    after(() => pair.stop());

    it('makes one call and one turn for questions sent to both at the same time', async () => {
      const { a, b } = pair;
      for (const conversation_id of [undefined, crypto.randomUUID(), undefined]) {
        const key = newKey();
        const gate = createGate();
        a.upstream.respond([
          async (exchange) => {
            await wait(gate)(exchange);
            await reply('one for both')(exchange);
          },
        ]);
        const number = a.upstream.requests.length + 1;
        const before = await a.countRows();
        const asking = times(20, (n) => ask(n % 2 === 0 ? a : b, key, { conversation_id }));
        await a.upstream.waitForRequest(number);
        gate.open();
        const answers = await Promise.all(asking);
        assert.equal(a.upstream.requests.length, number);
        for (const answer of answers) assert.equal(answer.text, answers[0]?.text);
        assert.equal(replyOf(answers[0] as Answer).response, 'one for both');
        const rows = await a.countRows();
        assert.deepEqual(
          [rows.conversations - before.conversations, rows.messages - before.messages],
          [1, 2],
        );
        assert.equal((await ask(b, key, { conversation_id })).text, answers[0]?.text);
      }
    });

    it('joins a stream of the other one', async () => {
      const { a, b } = pair;
      const key = newKey();
      const gate = createGate();
      a.upstream.respond([halves(gate)]);
      const first = await stream(a, key, { format: 'markdown' });
      const second = await stream(b, key, { format: 'markdown' });
      assert.equal(replayed(second), 'true');
      const early = [await second.until('start'), await second.until('content')];
      gate.open();
      const events = await first.rest();
      const told = [...early, ...(await second.rest())];
      assert.deepEqual(checkStream(told).data, checkStream(events).data);
      assert.equal(joined(told), joined(events));
      const other = await b.call(
        'POST',
        '/api/chat-stream',
        { message: 'another' },
        { 'idempotency-key': key },
      );
      problemOf(other, 422, 'idempotency_mismatch');
    });

    it('tells readers of a reply that was replaced that it is gone, not that the conversation is', async () => {
      const { a, b } = pair;
      const key = newKey();
      const gate = createGate();
      a.upstream.respond([halves(gate), reply('the second one')]);
      const first = await stream(a, key, { format: 'markdown' });
      const id = String(first.headers['x-stream-id']);
      const other = await resumeStream(b.url, id);
      await Promise.all([first.until('content'), other.until('content')]);
      // As when its worker was taken for dead.
      const closed = { status: 'incomplete', finish_reason: 'error', worker: null };
      assert.equal(await b.server.database.knex('messages').where({ uid: id }).update(closed), 1);
      const second = await stream(b, key, { format: 'markdown' });
      assert.equal(joined(await second.rest()), 'the second one');
      gate.open();
      for (const reader of [first, other]) {
        const { type, data } = (await reader.rest()).at(-1) ?? {};
        assert.deepEqual([type, data?.code], ['error', 'reply_incomplete']);
        assert.match(String(data?.detail), /read the conversation/);
      }
      assert.deepEqual(await stored(a, first.headers['x-conversation-id']), [
        ['user', 'q', 'complete'],
        ['assistant', 'the second one', 'complete'],
      ]);
    });

    it('lets one of many retry what failed on the other', async () => {
      const { a, b } = pair;
      const key = newKey();
      const conversation_id = crypto.randomUUID();
      a.upstream.respond([status(500)]);
      problemOf(await ask(a, key, { conversation_id }), 502, 'upstream_error');
      const number = a.upstream.requests.length;
      const answers = await Promise.all(times(10, (n) => ask(n % 2 === 0 ? b : a, key, { conversation_id })));
      for (const answer of answers) assert.equal(answer.text, answers[0]?.text);
      assert.equal(a.upstream.requests.length, number + 1);
      assert.deepEqual(await stored(a, conversation_id), [
        ['user', 'q', 'complete'],
        ['assistant', 'echo: q', 'complete'],
      ]);
    });
  });
}

describe('Idempotency-Key', () => {
  it('is free when the server had no capacity for the call', async (t) => {
    const chat = await startChat({ MAX_GENERATIONS: '1', SSE_OPEN_MS: '600000' });
    t.after(() => chat.stop());
    const gate = createGate();
    const conversation_id = crypto.randomUUID();
    const key = newKey();
    chat.upstream.respond([halves(gate)]);
    const busy = await stream(chat, newKey());
    for (const _ of [1, 2]) {
      const answer = await ask(chat, key, { conversation_id });
      problemOf(answer, 503, 'capacity');
      assert.equal(answer.headers['retry-after'], '1');
    }
    gate.open();
    await busy.rest();
    await until('the call to be over', async () => (await ask(chat, newKey())).status === 200);
    assert.equal(replyOf(await ask(chat, key, { conversation_id })).response, 'echo: q');
    assert.deepEqual(await stored(chat, conversation_id), [
      ['user', 'q', 'complete'],
      ['assistant', 'echo: q', 'complete'],
    ]);
  });

  it('is free when its conversation has expired', async (t) => {
    const shift = { ms: 0 };
    const chat = await startChat({}, { clock: { now: () => Date.now() + shift.ms } });
    t.after(() => chat.stop());
    for (const conversation_id of [undefined, crypto.randomUUID()]) {
      const key = newKey();
      const first = replyOf(await ask(chat, key, { conversation_id }));
      shift.ms += 23 * 3_600_000;
      assert.equal(replyOf(await ask(chat, key, { conversation_id })).message_id, first.message_id);
      shift.ms += 2 * 3_600_000;
      const second = await ask(chat, key, { conversation_id });
      assert.equal(replayed(second), undefined);
      assert.notEqual(replyOf(second).message_id, first.message_id);
      assert.equal((await ask(chat, key, { conversation_id })).text, second.text);
      const id = String(replyOf(second).conversation_id);
      assert.equal((await chat.read(id)).messages.length, 2);
      const { knex } = chat.server.database;
      for (const [table, count] of [
        ['messages', 2],
        ['idempotency_keys', 1],
      ] as const) {
        await until(
          `the old ${table} are removed`,
          async () => (await knex(table).where({ conversation_id: id })).length === count,
        );
      }
    }
  });

  it('is 503 while the database is unavailable, although a question without one succeeds', async (t) => {
    const away = {
      DATABASE_URL: 'mysql://nobody@127.0.0.1:1/nothing',
      DB_ACQUIRE_TIMEOUT_MS: '300',
      SSE_OPEN_MS: '0',
    };
    const chat = await startChat(away);
    t.after(() => chat.stop());
    for (const path of ['/api/chat', '/api/chat-stream']) {
      const answer = await chat.call('POST', path, { message: 'q' }, { 'idempotency-key': newKey() });
      problemOf(answer, 503, 'database_unavailable');
      assert.equal(answer.headers['retry-after'], '2');
    }
    assert.equal(chat.upstream.requests.length, 0);
    assert.equal((await chat.ask({ message: 'q' })).persisted, false);
  });

  it('may be sent, and its response headers read, by a browser of another origin', async (t) => {
    const chat = await startChat();
    t.after(() => chat.stop());
    const answer = await chat.call('OPTIONS', '/api/chat-stream', undefined, {
      origin: 'http://localhost:3000',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'content-type,idempotency-key,last-event-id',
    });
    assert.equal(answer.status, 204);
    const allowed = String(answer.headers['access-control-allow-headers']);
    for (const name of ['content-type', 'idempotency-key', 'last-event-id']) assert(allowed.includes(name));
    const asked = await chat.call('POST', '/api/chat', { message: 'q' }, { origin: 'http://localhost:3000' });
    assert.match(String(asked.headers['access-control-expose-headers']), /Idempotent-Replayed/);
  });
});
