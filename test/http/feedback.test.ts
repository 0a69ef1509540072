/** Feedback, and what exports have of messages beside their text. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { exportFile } from '../../src/http/schemas/exports.ts';
import { type ChatServer, databases, problemOf, startChat } from '../support/chat-server.ts';
import { bodyOf } from '../support/keys.ts';

const DATA = 'data:image/png;base64,iVBORw0KGgo=';

for (const place of databases()) {
  describe(`feedback and exports, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({ ...(await place.create()), HISTORY_LIMIT: '0' });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const rate = (id: string, body: unknown) => chat.call('PUT', `/api/messages/${id}/feedback`, body);
    const unrate = (id: string) => chat.call('DELETE', `/api/messages/${id}/feedback`);
    const shownOf = async (conversation: string, id: string) =>
      (await chat.read(conversation, '?include=superseded')).messages.find((message) => message.id === id);
    const exported = async (query: string) =>
      (await chat.call('GET', `/api/conversations/export-all?${query}`)).text;
    const lines = async (query: string) =>
      (await exported(`format=ndjson&${query}`))
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line));

    it('is set, replaced, shown by GET and exports, and removed', async () => {
      const { conversation_id, message_id } = await chat.ask({ message: 'rate me' });
      const rated = async (body: object, feedback: unknown) => {
        assert.deepEqual(bodyOf(await rate(message_id, body)), { message_id, feedback });
        assert.deepEqual((await shownOf(conversation_id, message_id))?.feedback, feedback);
        const line = (await lines('')).find((one) => one.conversation_id === conversation_id);
        assert.deepEqual(
          line.messages.map((one: { feedback?: unknown }) => one.feedback),
          [undefined, feedback],
        );
      };
      await rated({ rating: 'up' }, { rating: 'up', comment: null });
      await rated({ rating: 'down', comment: '不好 😀' }, { rating: 'down', comment: '不好 😀' });
      for (let n = 0; n < 2; n++) {
        assert.deepEqual(bodyOf(await unrate(message_id)), { message_id, feedback: null });
        assert.equal((await shownOf(conversation_id, message_id))?.feedback, undefined);
      }
    });

    it('is only for replies that exist', async () => {
      const { conversation_id, message_id } = await chat.ask({ message: 'q' });
      const question = (await chat.read(conversation_id)).messages[0]?.id ?? '';
      for (const id of [crypto.randomUUID(), question]) {
        problemOf(await rate(id, { rating: 'up' }), 404, 'message_not_found');
        problemOf(await unrate(id), 404, 'message_not_found');
      }
      for (const body of [
        {},
        { rating: 'ok' },
        { rating: 'up', comment: 'x'.repeat(2001) },
        { rating: 'up', x: 1 },
      ])
        problemOf(await rate(message_id, body), 400, 'validation');
      await chat.call('DELETE', `/api/conversations/${conversation_id}`);
      problemOf(await rate(message_id, { rating: 'up' }), 404, 'message_not_found');
    });

    it('selects rated replies with their questions in exports and jobs', async () => {
      const texts = async (rating: string) =>
        (await lines(`rating=${rating}`)).flatMap(({ messages }) =>
          messages.map(({ content }: { content: string }) => content),
        );
      const { conversation_id, message_id } = await chat.ask({ message: 'first' });
      const second = await chat.ask({ message: 'second', conversation_id });
      await chat.ask({ message: 'third', conversation_id });
      await rate(message_id, { rating: 'up' });
      await rate(second.message_id, { rating: 'down' });
      assert.deepEqual(await texts('up'), ['first', 'echo: first']);
      assert.deepEqual(await texts('down'), ['second', 'echo: second']);
      // Another reply to the same question.
      const { knex } = chat.server.database;
      const questions = await chat.read(conversation_id);
      const question = questions.messages[0]?.id ?? '';
      await knex('messages').where({ uid: second.message_id }).update({ reply_to: question });
      await rate(second.message_id, { rating: 'down' });
      assert.deepEqual(await texts('up'), ['first', 'echo: first']);
      assert.deepEqual((await texts('down')).slice(0, 1), ['first']);
      const job = bodyOf(await chat.call('POST', '/api/exports', { rating: 'up' }), 202);
      assert.equal(job.rating, 'up');
      problemOf(await chat.call('GET', '/api/conversations/export-all?rating=ok'), 400, 'validation');
    });

    it('exports everything that a message and its conversation have', async () => {
      const { conversation_id: id, message_id } = await chat.ask({ message: 'look' });
      const { knex } = chat.server.database;
      const parts = [
        { type: 'text', text: 'look' },
        { type: 'image_url', image_url: { url: DATA } },
        { type: 'text', text: '=1+1' },
      ];
      const calls = [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{"a":"\u2028"}' } }];
      const where = { conversation_id: id };
      await knex('messages')
        .where({ ...where, role: 'user' })
        .update({ details: JSON.stringify({ parts }) });
      await knex('messages')
        .where({ uid: message_id })
        .update({
          reasoning: '想'.repeat(5000),
          details: JSON.stringify({ tool_calls: calls, refusal: true, wants_reasoning: true }),
          status: 'superseded',
        });
      const settings = {
        title: 'T',
        metadata: { a: 'b' },
        system: 's',
        parameters: { seed: 1 },
        pinned: true,
      };
      await chat.call('PATCH', `/api/conversations/${id}`, settings);
      const shown = await chat.read(id, '?include=superseded');
      assert.deepEqual(shown.messages[0]?.parts, parts);
      assert.deepEqual(shown.messages[1]?.tool_calls, calls);
      assert.equal(shown.messages[1]?.reasoning?.length, 5000);
      assert.deepEqual(shown.messages[1]?.refusal, true);
      assert.deepEqual((await chat.read(id)).messages.length, 1);
      const { has_more: _, next_cursor: __, user: ___, model: ____, ...expected } = shown;
      const path = `/api/conversations/${id}/export`;
      const json = exportFile.parse(JSON.parse((await chat.call('GET', path)).text));
      assert.deepEqual(json.conversations, [expected]);
      const ndjson = (await chat.call('GET', `${path}?format=ndjson`)).text;
      assert.deepEqual(JSON.parse(ndjson), expected);
      const csv = (await chat.call('GET', `${path}?format=csv&csv=raw`)).text;
      assert.match(csv, /,user,"look\n\[image\]\n=1\+1",/);
      assert.equal(
        csv.split('\r\n')[0],
        'conversation_id,created_at,last_active,message_id,role,content,timestamp,status',
      );
      const [superseded] = await lines('status=superseded');
      assert.deepEqual([superseded.messages.length, superseded.messages[0].id], [1, message_id]);
      assert.deepEqual(await lines('role=tool'), []);
      await knex('messages')
        .where({ ...where, role: 'user' })
        .update({ role: 'system' });
      assert.equal((await lines('role=system'))[0].messages.length, 1);
    });
  });
}
