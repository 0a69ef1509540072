import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { z } from 'zod';
import { type conversation, conversationList, deleted } from '../../src/http/schemas/conversations.ts';
import { type ChatServer, databases, problemOf, shaped, startChat, until } from '../support/chat-server.ts';
import { createGate, delta, done, finish, script, wait } from '../support/fake-upstream.ts';
import { checkStream, joined, openStream } from '../support/sse-client.ts';

const HOUR = 3_600_000;
const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

for (const place of databases()) {
  describe(`conversations, on ${place.name},`, () => {
    let chat: ChatServer;
    let now = Date.UTC(2026, 2, 21, 8, 30, 0, 7);
    before(async () => {
      const env = { ...(await place.create()), SSE_OPEN_MS: '0', HISTORY_LIMIT: '0' };
      chat = await startChat(env, { clock: { now: () => now } });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const list = async (query = '') =>
      shaped(conversationList, await chat.call('GET', `/api/conversations${query}`));
    const remove = (id: string) => chat.call('DELETE', `/api/conversations/${id}`);
    const absent = async (id: string) => {
      for (const method of ['GET', 'DELETE']) {
        const { instance } = problemOf(
          await chat.call(method, `/api/conversations/${id}`),
          404,
          'conversation_not_found',
        );
        assert.equal(instance, `/api/conversations/${id}`);
      }
    };
    /** Every item of every page, following the cursors, with something happening in between. */
    const walk = async <P extends { has_more: boolean; next_cursor: string | null }>(
      page: (query: string) => Promise<P>,
      between: () => Promise<unknown> = () => Promise.resolve(),
    ) => {
      const pages: P[] = [];
      for (let query = '?limit=7'; ; query = `?limit=7&cursor=${pages.at(-1)?.next_cursor}`) {
        const next = await page(query);
        pages.push(next);
        assert.equal(next.has_more, next.next_cursor !== null);
        if (!next.has_more) return pages;
        await between();
      }
    };

    it('have the members of the contract, times in UTC with milliseconds', async () => {
      const { conversation_id: id, message_id } = await chat.ask({ message: 'first' });
      now += 1234;
      await chat.ask({ message: 'second', conversation_id: id });
      const shown = await chat.read(id);
      assert.deepEqual(shown, {
        conversation_id: id,
        created_at: '2026-03-21T08:30:00.007Z',
        last_active: '2026-03-21T08:30:01.241Z',
        expires_at: '2026-03-22T08:30:01.241Z',
        title: 'first',
        pinned: false,
        user: null,
        metadata: {},
        system: null,
        model: null,
        parameters: {},
        messages: shown.messages,
        has_more: false,
        next_cursor: null,
      });
      assert.deepEqual(
        shown.messages.map(({ role, content, timestamp, status }) => [role, content, timestamp, status]),
        [
          ['user', 'first', '2026-03-21T08:30:00.007Z', 'complete'],
          ['assistant', 'echo: first', '2026-03-21T08:30:00.007Z', 'complete'],
          ['user', 'second', '2026-03-21T08:30:01.241Z', 'complete'],
          ['assistant', 'echo: second', '2026-03-21T08:30:01.241Z', 'complete'],
        ],
      );
      assert.equal(shown.messages[1]?.id, message_id);
      assert.equal(new Set(shown.messages.map((message) => message.id)).size, 4);
      const [newest] = (await list()).conversations;
      const { messages: _messages, has_more: _more, next_cursor: _cursor, ...summary } = shown;
      const last_message = {
        id: shown.messages[3]?.id,
        role: 'assistant',
        preview: 'echo: second',
        timestamp: '2026-03-21T08:30:01.241Z',
        status: 'complete',
      };
      assert.deepEqual(newest, { ...summary, last_message });
    });

    it('are read in pages without loss or repetition, also while new messages arrive', async () => {
      const id = crypto.randomUUID();
      for (let n = 0; n < 15; n += 1) await chat.ask({ message: `m${n}`, conversation_id: id });
      let more = 15;
      const pages = await walk(
        (query) => chat.read(id, query),
        () => chat.ask({ message: `m${more++}`, conversation_id: id }),
      );
      const wanted = Array.from({ length: more }, (_, n) => [`m${n}`, `echo: m${n}`]).flat();
      assert.deepEqual(
        pages.flatMap(({ messages }) => messages.map(({ content }) => content)),
        wanted,
      );
      for (const page of pages.slice(0, -1)) assert.equal(page.messages.length, 7);
      assert.equal((await chat.read(id, '?limit=1000')).messages.length, wanted.length);
      const exact = await chat.read(id, `?limit=${wanted.length}`);
      assert.deepEqual([exact.has_more, exact.next_cursor], [false, null]);
    });

    it('have 100 messages per page by default', async () => {
      const id = crypto.randomUUID();
      for (let n = 0; n < 51; n += 1) await chat.ask({ message: 'again', conversation_id: id });
      const page = await chat.read(id);
      assert.deepEqual([page.messages.length, page.has_more], [100, true]);
    });

    it('are listed newest activity first, in pages without loss or repetition, though times are equal', async () => {
      const made: string[] = [];
      now += HOUR;
      for (let n = 0; n < 24; n += 1) {
        // Eight of the same millisecond each.
        if (n % 8 === 0) now += 1;
        made.push((await chat.ask({ message: 'listed' })).conversation_id);
      }
      const late: string[] = [];
      const pages = await walk(list, async () => {
        now += 1;
        late.push((await chat.ask({ message: 'late' })).conversation_id);
      });
      const seen = pages.flatMap((page) => page.conversations);
      const ids = seen.map(({ conversation_id }) => conversation_id);
      assert.equal(new Set(ids).size, ids.length, 'a conversation is there twice');
      assert.deepEqual(
        made.filter((id) => !ids.includes(id)),
        [],
      );
      assert.deepEqual(
        late.filter((id) => ids.includes(id)),
        [],
      );
      const times = seen.map(({ last_active }) => last_active);
      assert.deepEqual(times, [...times].sort().reverse());
      for (const time of times) assert.match(time, INSTANT);
    });

    it('move to the front of the list when they are used', async () => {
      const { conversation_id: id } = await chat.ask({ message: 'old one' });
      now += 1000;
      await chat.ask({ message: 'newer one' });
      now += 1000;
      await chat.ask({ message: 'used again', conversation_id: id });
      const [first] = (await list('?limit=1')).conversations;
      assert.equal(first?.conversation_id, id);
    });

    it('are deleted with their messages, once', async () => {
      const { conversation_id: id } = await chat.ask({ message: 'delete me' });
      const answer = await chat.call('DELETE', `/api/conversations/${id.toUpperCase()}`);
      assert.deepEqual(shaped(deleted, answer), { conversation_id: id, deleted: true });
      await absent(id);
      assert.deepEqual(await chat.rows(id), []);
      assert(!(await list('?limit=1000')).conversations.some((one) => one.conversation_id === id));
    });

    it('with unknown ids are 404; malformed ids and foreign cursors are 400', async () => {
      await absent(crypto.randomUUID());
      const { conversation_id: id } = await chat.ask({ message: 'cursor' });
      const listCursor = (await list('?limit=1')).next_cursor;
      for (const [method, path] of [
        ['GET', '/api/conversations/nonsense'],
        ['DELETE', '/api/conversations/nonsense'],
        ['GET', `/api/conversations/${id}?cursor=nonsense`],
        ['GET', `/api/conversations/${id}?cursor=${listCursor}`],
        ['GET', '/api/conversations?cursor=nonsense'],
        ['GET', '/api/conversations?cursor='],
      ] as const) {
        problemOf(await chat.call(method, path), 400, 'validation');
      }
    });

    it('are 404 from the moment they expire, before any purge', async () => {
      const { conversation_id: old } = await chat.ask({ message: 'old' });
      now += 1;
      const { conversation_id: young } = await chat.ask({ message: 'young' });
      now += 24 * HOUR;
      const [only, ...others] = (await list()).conversations;
      assert.deepEqual([only?.conversation_id, others], [young, []]);
      assert.equal((await chat.rows(old)).length, 2, 'the purge has run');
      assert.equal((await chat.read(young)).expires_at, new Date(now).toISOString());
      await absent(old);
    });

    it('deleted during a stream stay deleted, and the reader gets an error', async () => {
      const gate = createGate();
      chat.upstream.respond([script(delta('before, '), wait(gate), delta('after'), finish(), done())]);
      const reader = await openStream(chat.url, { message: 'interrupted', format: 'markdown' });
      const events = [await reader.until('start'), await reader.until('content')];
      const id = String(reader.headers['x-conversation-id']);
      const during = await chat.read(id);
      assert.deepEqual(
        during.messages.map(({ role, status }) => [role, status]),
        [
          ['user', 'complete'],
          ['assistant', 'streaming'],
        ],
      );
      const number = chat.upstream.requests.length;
      assert.equal((await remove(id)).status, 200);
      await absent(id);
      events.push(...(await reader.rest()));
      const end = checkStream(events);
      assert.equal(joined(events), 'before, ');
      assert.deepEqual([end.type, end.data.code], ['error', 'conversation_not_found']);
      await chat.upstream.waitForClosed(number);
      gate.open();
      await absent(id);
      assert.deepEqual(await chat.rows(id), []);
    });

    it('deleted and recreated during a stream get nothing of the old turn', async () => {
      const gate = createGate();
      const id = crypto.randomUUID();
      chat.upstream.respond([script(delta('old'), wait(gate), delta(' reply'), finish(), done())]);
      const reader = await openStream(chat.url, { message: 'old question', conversation_id: id });
      await reader.until('content');
      await remove(id);
      await chat.ask({ message: 'new question', conversation_id: id });
      gate.open();
      const end = (await reader.rest()).at(-1);
      assert.deepEqual([end?.type, end?.data.code], ['error', 'conversation_not_found']);
      assert.deepEqual(
        (await chat.rows(id)).map(({ content }) => content),
        ['new question', 'echo: new question'],
      );
    });

    it('deleted during a JSON reply stay deleted, and the caller gets an error', async () => {
      const gate = createGate();
      const id = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([
        async (exchange) => {
          await wait(gate)(exchange);
          exchange.response.writeHead(200, { 'content-type': 'application/json' });
          const choice = {
            index: 0,
            message: { role: 'assistant', content: 'whole' },
            finish_reason: 'stop',
          };
          exchange.response.end(JSON.stringify({ choices: [choice] }));
        },
      ]);
      const asked = chat.call('POST', '/api/chat', { message: 'whole question', conversation_id: id });
      await chat.upstream.waitForRequest(number);
      await until('the question', async () => (await chat.rows(id)).length === 2);
      assert.equal((await remove(id)).status, 200);
      gate.open();
      problemOf(await asked, 404, 'conversation_not_found');
      await absent(id);
    });
  });
}

describe('conversations without expiry', () => {
  it('have no expiry time', async (t) => {
    let now = Date.UTC(2026, 2, 21);
    const chat = await startChat({ CONVERSATION_TTL_HOURS: '0' }, { clock: { now: () => now } });
    t.after(() => chat.stop());
    const { conversation_id: id, expires_at } = await chat.ask({ message: 'x' });
    now += 10 * 365 * 24 * HOUR;
    const shown: z.output<typeof conversation> = await chat.read(id);
    assert.deepEqual([expires_at, shown.expires_at, shown.messages.length], [null, null, 2]);
  });
});
