import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, databases, problemOf, startChat } from '../support/chat-server.ts';
import { json, reply } from '../support/fake-upstream.ts';

const PNG = Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex');
const JPEG = Buffer.from('ffd8ffe000104a46494600010100', 'hex');
const GIF = Buffer.from('GIF89a\x01\x00\x01\x00\x80\x00', 'latin1');
const WEBP = Buffer.from('RIFF\x24\x00\x00\x00WEBPVP8 ', 'latin1');
const dataUrl = (type: string, bytes: Buffer) => `data:image/${type};base64,${bytes.toString('base64')}`;
const image = (url: string, detail?: string) => ({
  type: 'image_url',
  image_url: { url, ...(detail !== undefined && { detail }) },
});
const text = (content: string) => ({ type: 'text', text: content });

const tool = (name: string) => ({ type: 'function', function: { name, parameters: { type: 'object' } } });
const call = (id: string, name = 'weather') => ({
  id,
  type: 'function',
  function: { name, arguments: '{"city":"Paris"}' },
});
/** A model server that asks for calls. */
const calling = (ids: readonly string[], more: object = {}) =>
  json({
    id: 'chatcmpl-1',
    object: 'chat.completion',
    model: 'fake-model',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: null, tool_calls: ids.map((id) => call(id)), ...more },
        finish_reason: 'tool_calls',
      },
    ],
  });

for (const database of databases()) {
  describe(`requests of chats, on ${database.name}`, () => {
    let chat: ChatServer;
    before(async () => {
      const settings = { OPENAI_TEMPERATURE: '0.5', OPENAI_MAX_TOKENS: '100', SYSTEM_PROMPT: 'be kind' };
      chat = await startChat({ ...settings, CACHE_MAX_BYTES: '0', ...(await database.create()) });
    });
    after(async () => {
      await chat.stop();
      await database.drop();
    });

    const sent = (): Record<string, unknown> => {
      const { messages: _, model: __, stream: ___, ...more } = chat.upstream.requests.at(-1)?.body ?? {};
      return more;
    };
    const sentMessages = () =>
      chat.upstream.requests.at(-1)?.sentMessages as { role: string; content: unknown }[];
    const conversation = async (id: string) =>
      JSON.parse((await chat.call('GET', `/api/conversations/${id}`)).text);
    const create = async (body: object): Promise<string> => {
      const answer = await chat.call('POST', '/api/conversations', body);
      assert.equal(answer.status, 201, answer.text);
      return JSON.parse(answer.text).conversation_id;
    };

    it('sends parameters of the turn over those of the conversation over the settings', async () => {
      const id = await create({
        system: 'of the conversation',
        model: 'its-model',
        parameters: { top_p: 0.5, tools: [tool('a'), tool('b')], extra: { one: 1, two: 2 } },
      });
      await chat.ask({ message: 'plain', conversation_id: id });
      assert.deepEqual(sent(), {
        temperature: 0.5,
        max_tokens: 100,
        top_p: 0.5,
        tools: [tool('a'), tool('b')],
        one: 1,
        two: 2,
      });
      assert.deepEqual(sentMessages()[0], { role: 'system', content: 'of the conversation' });
      assert.equal(chat.upstream.requests.at(-1)?.body.model, 'its-model');
      const parameters = {
        temperature: null,
        max_tokens: 7,
        stop: ['x'],
        tools: [tool('c')],
        extra: { two: null, three: [3] },
      };
      const turn = { message: 'changed', conversation_id: id, system: 'of the turn', model: 'turn-model' };
      await chat.ask({ ...turn, parameters });
      assert.deepEqual(sent(), {
        max_tokens: 7,
        top_p: 0.5,
        stop: ['x'],
        tools: [tool('c')],
        one: 1,
        three: [3],
      });
      assert.deepEqual(sentMessages()[0], { role: 'system', content: 'of the turn' });
      assert.equal(chat.upstream.requests.at(-1)?.body.model, 'turn-model');
      await chat.ask({
        message: 'none',
        conversation_id: id,
        system: '',
        parameters: { tools: null, extra: null },
      });
      assert.deepEqual(sent(), { temperature: 0.5, max_tokens: 100, top_p: 0.5 });
      assert.equal(sentMessages()[0]?.role, 'user');
    });

    it('sends every parameter as it is', async () => {
      const parameters = {
        temperature: 0,
        top_p: 1,
        max_tokens: 1,
        stop: 'END',
        seed: -3,
        frequency_penalty: -2,
        presence_penalty: 2,
        response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { constructor: 1 } } },
        reasoning_effort: 'high',
        tools: [tool('a')],
        tool_choice: { type: 'function', function: { name: 'a' } },
        parallel_tool_calls: false,
      };
      await chat.ask({ message: 'all', parameters });
      assert.deepEqual(sent(), parameters);
      assert.equal(sentMessages()[0]?.content, 'be kind');
    });

    it('stores the first user of a conversation, sends it with every turn, and refuses another one', async () => {
      const { conversation_id: id } = await chat.ask({ message: 'anonymous' });
      assert.equal('user' in sent(), false);
      await chat.ask({ message: 'first', conversation_id: id, user: 'ann' });
      assert.equal(sent().user, 'ann');
      assert.equal((await conversation(id)).user, 'ann');
      await chat.ask({ message: 'second', conversation_id: id });
      assert.equal(sent().user, 'ann');
      const asked = chat.upstream.requests.length;
      for (const path of ['/api/chat', '/api/chat-stream']) {
        const other = { message: 'third', conversation_id: id, user: 'bob' };
        problemOf(await chat.call('POST', path, other), 422, 'user_mismatch');
      }
      assert.equal(chat.upstream.requests.length, asked);
      assert.equal((await chat.rows(id)).length, 6);
      await chat.ask({ message: 'new', user: 'bob' });
      assert.equal(sent().user, 'bob');
    });

    it('of two turns at the same time that name other users one is stored', async () => {
      const { conversation_id: id } = await chat.ask({ message: 'race' });
      const statuses = await Promise.all(
        ['ann', 'bob'].map(async (user) => {
          const body = { message: `from ${user}`, conversation_id: id, user };
          return (await chat.call('POST', '/api/chat', body)).status;
        }),
      );
      assert.deepEqual(statuses.sort(), [200, 422]);
      const stored = await conversation(id);
      assert.equal(stored.messages.length, 4);
      assert.equal(stored.messages[2].content, `from ${stored.user}`);
    });

    it('merges metadata into that of the conversation, up to 16 members', async () => {
      const { conversation_id: id } = await chat.ask({ message: 'one', metadata: { a: '1', b: '2' } });
      await chat.ask({ message: 'two', conversation_id: id, metadata: { b: '3', constructor: '4' } });
      assert.deepEqual((await conversation(id)).metadata, { a: '1', b: '3', constructor: '4' });
      const many = Object.fromEntries(Array.from({ length: 13 }, (_, index) => [`m${index}`, '']));
      await chat.ask({ message: 'sixteen', conversation_id: id, metadata: many });
      const refused = { message: 'more', conversation_id: id, metadata: { z: '' } };
      const problem = problemOf(await chat.call('POST', '/api/chat', refused), 400, 'validation');
      assert.equal(problem.errors?.[0]?.path, 'metadata');
      assert.equal(Object.keys((await conversation(id)).metadata).length, 16);
    });

    it('sends images and stores them, also in later turns, in the form in which they came', async () => {
      const parts = [
        text('What is this?'),
        image(dataUrl('png', PNG), 'low'),
        image(dataUrl('jpeg', JPEG)),
        image(dataUrl('gif', GIF)),
        image(dataUrl('webp', WEBP)),
        image('https://example.com/a.png?x=1'),
        text('And this?'),
      ];
      const { conversation_id: id } = await chat.ask({ message: parts });
      assert.deepEqual(sentMessages().at(-1), { role: 'user', content: parts });
      const [stored] = (await conversation(id)).messages;
      assert.deepEqual([stored.content, stored.parts], ['What is this?\nAnd this?', parts]);
      await chat.ask({ message: 'and now?', conversation_id: id });
      assert.deepEqual(sentMessages()[1], { role: 'user', content: parts });
      const alone = await chat.ask({ message: [image(dataUrl('png', PNG))] });
      assert.equal((await conversation(alone.conversation_id)).messages[0].content, '');
      await chat.ask({ message: [text('only text')] });
      assert.equal(sentMessages().at(-1)?.content, 'only text');
    });

    it('takes images of 4 MiB, longer than a packet of the database', async () => {
      const big = Buffer.alloc(4 * 1024 * 1024);
      PNG.copy(big);
      const parts = Array.from({ length: 2 }, () => image(dataUrl('png', big)));
      const { conversation_id: id } = await chat.ask({ message: [...parts, text('大')] });
      await chat.ask({ message: 'again', conversation_id: id });
      assert.deepEqual(sentMessages()[1], { role: 'user', content: [...parts, text('大')] });
    });

    describe('tool results', () => {
      const answers = (ids: readonly string[]) =>
        ids.map((id) => ({ tool_call_id: id, content: `of ${id}` }));
      const begin = async (ids: readonly string[], more: object = {}) => {
        chat.upstream.respond([calling(ids, more)]);
        return chat.ask({ message: 'weather?', parameters: { tools: [tool('weather')] } });
      };

      it('answer the calls of the newest reply: stored as messages, sent with the calls and the reasoning', async () => {
        const { conversation_id: id, message_id } = await begin(['a', 'b'], { reasoning_content: 'hm' });
        chat.upstream.respond([reply('sunny')]);
        const { response } = await chat.ask({ conversation_id: id, tool_results: answers(['b', 'a']) });
        assert.equal(response, 'sunny');
        const exchange = [
          { role: 'user', content: 'weather?' },
          { role: 'assistant', content: null, reasoning_content: 'hm', tool_calls: [call('a'), call('b')] },
          { role: 'tool', tool_call_id: 'a', content: 'of a' },
          { role: 'tool', tool_call_id: 'b', content: 'of b' },
        ];
        assert.deepEqual(sentMessages().slice(1), exchange);
        const rows = await chat.rows(id);
        assert.deepEqual(
          rows.map(({ role, content }) => [role, content]),
          [
            ['user', 'weather?'],
            ['assistant', ''],
            ['tool', 'of a'],
            ['tool', 'of b'],
            ['assistant', 'sunny'],
          ],
        );
        assert.deepEqual(
          rows.slice(2).map(({ reply_to }) => reply_to),
          [message_id, message_id, rows[3]?.uid],
        );
        await chat.ask({ message: 'thanks', conversation_id: id });
        assert.deepEqual(sentMessages().slice(1), [
          ...exchange,
          { role: 'assistant', content: 'sunny' },
          { role: 'user', content: 'thanks' },
        ]);
      });

      it('can be followed by further calls, sent whole beyond HISTORY_LIMIT', async () => {
        const { conversation_id: id } = await begin(['c0']);
        for (let round = 1; round < 8; round += 1) {
          chat.upstream.respond([calling([`c${round}`])]);
          await chat.ask({ conversation_id: id, tool_results: answers([`c${round - 1}`]) });
        }
        assert.equal(sentMessages().length, 1 + 1 + 7 * 2);
        await chat.ask({ conversation_id: id, tool_results: answers(['c7']) });
        assert.equal(sentMessages().length, 1 + 1 + 8 * 2);
        await chat.ask({ message: 'next', conversation_id: id });
        assert.equal(sentMessages().length, 2, 'an exchange of 18 messages is beyond HISTORY_LIMIT');
      });

      it('that never came leave out the question with the calls', async () => {
        const { conversation_id: id } = await begin(['a']);
        await chat.ask({ message: 'never mind', conversation_id: id });
        assert.deepEqual(
          sentMessages().map(({ content }) => content),
          ['be kind', 'never mind'],
        );
        const late = { conversation_id: id, tool_results: answers(['a']) };
        problemOf(await chat.call('POST', '/api/chat', late), 400, 'validation');
      });

      it('are refused when they do not answer all calls', async () => {
        const { conversation_id: id } = await begin(['a', 'b']);
        const asked = chat.upstream.requests.length;
        for (const [ids, path] of [
          [['a'], 'tool_results'],
          [['a', 'b', 'c'], 'tool_results.2.tool_call_id'],
          [['a', 'a', 'b'], 'tool_results'],
        ] as const) {
          const body = { conversation_id: id, tool_results: answers(ids) };
          for (const route of ['/api/chat', '/api/chat-stream']) {
            const problem = problemOf(await chat.call('POST', route, body), 400, 'validation');
            assert.equal(problem.errors?.[0]?.path, path);
          }
        }
        const unknown = {
          conversation_id: '0198c0de-7a11-7000-8000-5eed00000000',
          tool_results: answers(['a']),
        };
        problemOf(await chat.call('POST', '/api/chat', unknown), 404, 'conversation_not_found');
        assert.equal(chat.upstream.requests.length, asked);
        assert.equal((await chat.rows(id)).length, 2);
      });

      it('with an Idempotency-Key whose reply failed are sent again as they are stored', async () => {
        const { conversation_id: id } = await begin(['a']);
        const body = { conversation_id: id, tool_results: answers(['a']) };
        chat.upstream.respond([({ response }) => void response.writeHead(500).end('{}'), reply('at last')]);
        const headers = { 'idempotency-key': 'tools-1' };
        assert.equal((await chat.call('POST', '/api/chat', body, headers)).status, 502);
        const again = await chat.call('POST', '/api/chat', body, headers);
        assert.equal(JSON.parse(again.text).response, 'at last');
        assert.deepEqual(
          sentMessages().map(({ role }) => role),
          ['system', 'user', 'assistant', 'tool'],
        );
        assert.equal((await chat.rows(id)).length, 4);
      });

      it('can be sent again when their reply failed', async () => {
        const { conversation_id: id } = await begin(['a']);
        const body = { conversation_id: id, tool_results: answers(['a']) };
        chat.upstream.respond([({ response }) => void response.writeHead(500).end('{}'), reply('at last')]);
        assert.equal((await chat.call('POST', '/api/chat', body)).status, 502);
        await chat.ask(body);
        await chat.ask({ message: 'next', conversation_id: id });
        assert.deepEqual(
          sentMessages().map(({ role }) => role),
          ['system', 'user', 'assistant', 'tool', 'assistant', 'user'],
        );
      });
    });
  });
}
