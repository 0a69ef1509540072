/** `/v1` on two servers that share a database, as the workers of a cluster do. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, databases, openAiErrorOf, until } from '../support/chat-server.ts';
import { createGate, delta, done, finish, reply, script, wait } from '../support/fake-upstream.ts';
import { type Pair, startPair } from '../support/pair.ts';
import { checkStream, joined, resumeStream } from '../support/sse-client.ts';

const user = (content: string) => ({ role: 'user', content });
const said = (content: string) => ({ role: 'assistant', content });

for (const place of databases()) {
  describe(`/v1 on two workers, on ${place.name},`, () => {
    let pair: Pair;
    let both: readonly [ChatServer, ChatServer];
    before(async () => {
      pair = await startPair(place, { SSE_OPEN_MS: '0', CHECKPOINT_MS: '50', SSE_HEARTBEAT_MS: '50' });
      both = [pair.a, pair.b];
    });
    after(() => pair.stop());

    let texts = 0;
    const fresh = (text: string) => `${text} ${++texts}`;
    const ask = async (
      { call }: ChatServer,
      messages: object[],
      more: object = {},
      headers: Record<string, string> = {},
    ) => {
      const answer = await call('POST', '/v1/chat/completions', { messages, ...more }, headers);
      assert.equal(answer.status, 200, answer.text);
      return String(answer.headers['x-conversation-id']);
    };
    const questions = async (id: string) =>
      (await pair.a.read(id)).messages.filter(({ role }) => role === 'user').map(({ content }) => content);

    it('turns that follow each other on different workers are one conversation', async () => {
      const history: object[] = [];
      const ids = new Set<string>();
      for (let turn = 0; turn < 6; turn++) {
        const question = fresh('turn');
        history.push(user(question));
        // Immediately after the end of the response.
        ids.add(await ask(both[turn % 2 ? 1 : 0], history, { stream: turn % 3 === 0 }));
        history.push(said(`echo: ${question}`));
      }
      assert.equal(ids.size, 1);
      assert.equal((await pair.b.read([...ids][0] ?? '')).messages.length, 12);
    });

    it('of equal histories that continue at the same time one continues, whatever the workers', async () => {
      const first = fresh('race');
      const id = await ask(pair.a, [user(first)]);
      const history = [user(first), said(`echo: ${first}`)];
      const calls = Array.from({ length: 6 }, (_, n) =>
        ask(both[n % 2 ? 1 : 0], [...history, user(`branch ${n}`)], { stream: n % 3 === 0 }),
      );
      const ids = await Promise.all(calls);
      assert.equal(new Set(ids).size, 6);
      assert.equal(ids.filter((each) => each === id).length, 1);
      for (const [n, each] of ids.entries()) assert.deepEqual(await questions(each), [first, `branch ${n}`]);
      // Each branch is found again.
      for (const [n, each] of ids.entries()) {
        const longer = [...history, user(`branch ${n}`), said(`echo: branch ${n}`), user('on')];
        assert.equal(await ask(both[n % 2 ? 0 : 1], longer), each);
      }
    });

    it('two clients with one X-Conversation-Id at the same time both get their reply', async () => {
      const id = await ask(pair.a, [user(fresh('named'))]);
      const gate = createGate();
      pair.a.upstream.respond(
        ['one', 'two'].map((text) => async (exchange) => {
          await gate.opened;
          return reply(text)(exchange);
        }),
      );
      const calls = pair.a.upstream.requests.length;
      const asked = both.map((chat, n) =>
        ask(chat, [user(`question ${n}`)], {}, { 'x-conversation-id': id }),
      );
      await pair.a.upstream.waitForRequest(calls + 2);
      gate.open();
      assert.deepEqual(await Promise.all(asked), [id, id]);
      const rows = await pair.a.rows(id);
      const replies = rows.filter(({ role }) => role === 'assistant');
      assert.deepEqual(
        replies
          .map(({ content }) => content)
          .slice(1)
          .sort(),
        ['one', 'two'],
      );
      const answered = replies.map(({ reply_to }) => rows.find(({ uid }) => uid === reply_to)?.content);
      assert.deepEqual(answered.slice(1).sort(), ['question 0', 'question 1']);
      // It has no order that a history could have, but it is found by its id.
      assert.equal(await ask(pair.b, [user('more')], {}, { 'x-conversation-id': id }), id);
    });

    it('a conversation that was deleted on one worker is gone on the other', async () => {
      const first = fresh('deleted');
      const id = await ask(pair.a, [user(first)]);
      await pair.b.call('DELETE', `/api/conversations/${id}`);
      const next = [user(first), said(`echo: ${first}`), user('on')];
      assert.notEqual(await ask(pair.a, next), id);
      const named = await pair.a.call(
        'POST',
        '/v1/chat/completions',
        { messages: next },
        { 'x-conversation-id': id },
      );
      openAiErrorOf(named, 404, 'conversation_not_found');
    });

    it('a reader of the native stream on another worker keeps it alive', async () => {
      const gate = createGate();
      pair.a.upstream.respond([script(delta('so far'), wait(gate), delta(', so good'), finish(), done())]);
      const abort = new AbortController();
      const response = await fetch(`${pair.a.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ messages: [user(fresh('followed'))], stream: true }),
        signal: abort.signal,
      });
      const id = String(response.headers.get('x-stream-id'));
      const conversation = String(response.headers.get('x-conversation-id'));
      const reader = await resumeStream(pair.b.url, id);
      const events = [await reader.until('start'), await reader.until('content')].flat();
      const details = async () => {
        const [row] = await pair.a.server.database.knex('messages').where({ uid: id });
        return String(row?.details);
      };
      await until('the reader to be known', async () => (await details()).includes('followed'));
      abort.abort();
      const left = () => pair.a.server.lines.some(({ client }) => client === 'gone');
      await until('the disconnect', left);
      await pair.a.read(conversation);
      gate.open();
      events.push(...(await reader.rest()));
      assert.equal(checkStream(events).type, 'done');
      assert.equal(joined(events), 'so far, so good');
      assert.deepEqual((await pair.a.rows(conversation))[1]?.status, 'complete');
    });
  });
}
