/** `/v1` while the database is unavailable. SQLite is always there. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, databases, openAiErrorOf, startChat, until } from '../support/chat-server.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { checkStream, joined, resumeStream } from '../support/sse-client.ts';

const user = (content: string) => ({ role: 'user', content });
const said = (content: string) => ({ role: 'assistant', content });

for (const place of databases().slice(1)) {
  describe(`/v1 without its database, ${place.name},`, () => {
    let proxy: FaultProxy;
    let chat: ChatServer;
    before(async () => {
      const { DATABASE_URL = '', ...env } = await place.create();
      const url = new URL(DATABASE_URL);
      proxy = await startFaultProxy(Number(url.port));
      url.port = String(proxy.port);
      const times = { DB_ACQUIRE_TIMEOUT_MS: '1000', DB_QUERY_TIMEOUT_MS: '1000' };
      chat = await startChat({ ...env, ...times, DATABASE_URL: url.href });
    });
    after(async () => {
      await chat.stop();
      await proxy.close();
      await place.drop();
    });

    const post = (messages: object[], more: object = {}, headers: Record<string, string> = {}) =>
      chat.call('POST', '/v1/chat/completions', { messages, ...more }, headers);
    const isReady = async (status: number) => (await chat.call('GET', '/health/ready')).status === status;

    it('serves what needs none, keeps it in the journal, and continues it afterwards', async () => {
      const first = await post([user('first')]);
      const id = String(first.headers['x-conversation-id']);
      const history = [user('first'), said('echo: first'), user('second')];
      proxy.refuse();
      proxy.cut();
      await until('the database to be away', () => isReady(503));

      const calls = chat.upstream.requests.length;
      const named = await post(history, {}, { 'x-conversation-id': id });
      openAiErrorOf(named, 503, 'database_unavailable');
      assert(Number(named.headers['retry-after']) > 0);
      assert.equal(chat.upstream.requests.length, calls, 'the model was not called');

      assert.equal((await post(history, { store: false })).status, 200);
      assert.equal((await chat.call('GET', '/v1/models')).status, 200);
      const whole = await post(history);
      assert.equal(whole.status, 200, whole.text);
      const streamed = await post([user('other')], { stream: true });
      assert.match(streamed.text, /data: \[DONE\]\n\n$/);
      const ids = [whole, streamed].map(({ headers }) => String(headers['x-conversation-id']));
      assert.equal(new Set([id, ...ids]).size, 3);
      const begun = await post([user('begun')]);
      const journalled = { 'x-conversation-id': String(begun.headers['x-conversation-id']) };
      const again = await post([user('begun'), said('echo: begun'), user('again')], {}, journalled);
      assert.equal(again.status, 200, again.text);
      assert.equal(again.headers['x-conversation-id'], journalled['x-conversation-id']);
      const events = await (await resumeStream(chat.url, String(streamed.headers['x-stream-id']))).rest();
      assert.deepEqual([checkStream(events).type, joined(events)], ['done', 'echo: other']);

      proxy.accept();
      await until('the journal to be empty', async () => {
        const { text } = await chat.call('GET', '/health/ready');
        return JSON.parse(text).journal?.turns === 0 && (await isReady(200));
      });
      const next = await post([...history, said('echo: second'), user('third')]);
      assert.equal(next.headers['x-conversation-id'], ids[0]);
      const other = await post([user('other'), said('echo: other'), user('on')]);
      assert.equal(other.headers['x-conversation-id'], ids[1]);
      assert.equal((await chat.read(ids[0] ?? '')).messages.length, 6);
    });
  });
}
