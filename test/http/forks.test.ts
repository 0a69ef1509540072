import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, databases, problemOf, startChat } from '../support/chat-server.ts';
import { createGate, delta, finish, reply, script, wait } from '../support/fake-upstream.ts';
import { openStream } from '../support/sse-client.ts';

for (const place of databases()) {
  describe(`POST /api/conversations/{id}/fork, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({ ...(await place.create()), SSE_OPEN_MS: '0' });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });

    async function converse(turns: number): Promise<{ id: string; messages: string[] }> {
      const created = await chat.call('POST', '/api/conversations', { title: 'Source', system: 'Be brief' });
      const id: string = JSON.parse(created.text).conversation_id;
      for (let n = 1; n <= turns; n++) {
        chat.upstream.respond([reply(`a${n}`)]);
        await chat.ask({ message: `q${n}`, conversation_id: id, cache: false });
      }
      return { id, messages: (await chat.read(id)).messages.map((message) => message.id) };
    }

    const fork = (id: string, body: object = {}) => chat.call('POST', `/api/conversations/${id}/fork`, body);

    it('creates an independent conversation, which continues from there', async () => {
      const { id, messages } = await converse(2);
      for (const [body, title, said] of [
        [{}, 'Source', ['q1', 'a1', 'q2', 'a2']],
        [{ message_id: messages[1]?.toUpperCase(), title: 'Other' }, 'Other', ['q1', 'a1']],
        [{ message_id: messages[2] }, 'Source', ['q1', 'a1', 'q2']],
      ] as const) {
        const answer = await fork(id, body);
        assert.equal(answer.status, 201, answer.text);
        const made = JSON.parse(answer.text);
        assert.equal(answer.headers.location, `/api/conversations/${made.conversation_id}`);
        assert.deepEqual([made.title, made.system, made.pinned], [title, 'Be brief', false]);
        const copy = await chat.read(made.conversation_id);
        assert.deepEqual(
          copy.messages.map(({ content }) => content),
          said,
        );
        assert.ok(copy.messages.every((message) => !messages.includes(message.id)));
        const last = copy.messages[1]?.id;
        chat.upstream.respond([reply('new')]);
        const again = { regenerate: last, conversation_id: made.conversation_id };
        assert.equal((await chat.ask(again)).response, 'new');
      }
      assert.deepEqual(
        (await chat.read(id)).messages.map((message) => message.id),
        messages,
      );
    });

    it('is refused for a reply that is streaming, unless it is not copied', async () => {
      const { id, messages } = await converse(1);
      const gate = createGate();
      chat.upstream.respond([script(delta('a'), wait(gate), finish())]);
      const stream = await openStream(chat.url, { message: 'q2', conversation_id: id, cache: false });
      await stream.until('content');
      problemOf(await fork(id), 409, 'conversation_busy');
      assert.equal((await fork(id, { message_id: messages[1] })).status, 201);
      gate.open();
      await stream.until('done');
      assert.equal((await fork(id)).status, 201);
    });

    it('is refused for ids that do not fit', async () => {
      const { id, messages } = await converse(1);
      const other = await converse(1);
      chat.upstream.respond([reply('new')]);
      await chat.ask({ regenerate: messages[1], conversation_id: id });
      for (const [target, body, status, code] of [
        ['x', {}, 400, 'validation'],
        [id, { message_id: 'x' }, 400, 'validation'],
        [id, { title: ' ' }, 400, 'validation'],
        [id, { titel: 'x' }, 400, 'validation'],
        [id, [], 400, 'validation'],
        [randomUUID(), {}, 404, 'conversation_not_found'],
        [id, { message_id: randomUUID() }, 404, 'message_not_found'],
        [id, { message_id: other.messages[0] }, 404, 'message_not_found'],
        [id, { message_id: messages[1] }, 409, 'message_superseded'],
      ] as const) {
        problemOf(await fork(target, body), status, code);
      }
    });

    it('takes a hundred at the same time', async () => {
      const { id } = await converse(2);
      const answers = await Promise.all(Array.from({ length: 100 }, () => fork(id)));
      assert.deepEqual([...new Set(answers.map(({ status }) => status))], [201]);
      assert.equal(new Set(answers.map(({ headers }) => headers.location)).size, 100);
    });
  });
}
