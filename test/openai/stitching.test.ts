/** Which conversation the turns of clients are stored in that send their whole history. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { OpenAI } from 'openai';
import {
  type Answer,
  type ChatServer,
  databases,
  openAiErrorOf,
  problemOf,
  startChat,
} from '../support/chat-server.ts';
import { createGate, json, reply, status } from '../support/fake-upstream.ts';
import { type Person, type ProtectedServer, startProtected } from '../support/keys.ts';

type Messages = Readonly<Record<string, unknown>>[];

const user = (content: unknown) => ({ role: 'user', content });
const said = (content: string) => ({ role: 'assistant', content });
const system = (content: string) => ({ role: 'system', content });
const CALL = { id: 'c1', type: 'function', function: { name: 'sum', arguments: '{"a": 1, "b": 2}' } };
const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==';

for (const place of databases()) {
  describe(`turns of clients with their own history, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat(await place.create());
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });

    /** Each test has its own texts. */
    let texts = 0;
    const fresh = (text: string) => `${text} ${++texts}`;
    const ask = async (messages: Messages, more: object = {}, headers: Record<string, string> = {}) => {
      const answer = await chat.call('POST', '/v1/chat/completions', { messages, ...more }, headers);
      assert.equal(answer.status, 200, answer.text);
      return idOf(answer);
    };
    const idOf = ({ headers }: Answer) => String(headers['x-conversation-id']);
    const texted = async (id: string) =>
      (await chat.read(id)).messages.map(({ role, content }) => [role, content]);
    const imported = async (id: string) => {
      const rows = await chat.server.database.knex('messages').where({ conversation_id: id }).orderBy('id');
      return rows.map(({ details }) => JSON.parse(details ?? '{}').imported ?? false);
    };
    /** A conversation of one turn, and its history. */
    const begin = async (text: string) => {
      const id = await ask([user(text)]);
      return { id, history: [user(text), said(`echo: ${text}`)] };
    };

    it('ten turns are one conversation, with twenty messages in the export', async () => {
      const history: Messages = [system('Be brief.')];
      const ids = new Set<string>();
      for (let turn = 0; turn < 10; turn++) {
        const question = fresh('question');
        history.push(user(question));
        ids.add(await ask(history, { stream: turn % 2 === 1 }));
        history.push(said(`echo: ${question}`));
      }
      const [id = ''] = ids;
      assert.equal(ids.size, 1);
      const exported = JSON.parse(
        (await chat.call('GET', `/api/conversations/${id}/export?format=json`)).text,
      );
      const messages = exported.messages ?? exported.conversations[0].messages;
      assert.deepEqual(
        messages.map(({ role, content }: { role: string; content: string }) => ({ role, content })),
        history.slice(1),
      );
      assert.equal(messages.length, 20);
      assert.equal((await chat.read(id)).system, 'Be brief.');
      assert(!(await imported(id)).includes(true));
    });

    it('an empty history begins a conversation, with and without a system prompt', async () => {
      const text = fresh('hello');
      const ids = [
        await ask([user(text)]),
        await ask([user(text)]),
        await ask([system('S'), user(text)]),
        await ask([system('S'), user(text)]),
      ];
      assert.equal(new Set(ids).size, 4);
    });

    const others: Record<string, (history: Messages) => Messages> = {
      'an edited question': ([, answer]) => [user('edited'), answer ?? {}],
      'words that were never said': ([question]) => [question ?? {}, said('I never said so')],
      'another system prompt': (history) => [system('Other'), ...history],
      'one message more': (history) => [...history, system('Now in French.')],
      'one turn less': () => [],
    };
    for (const [what, change] of Object.entries(others)) {
      it(`${what} begins a conversation with the client's history, marked as imported`, async () => {
        const { id, history } = await begin(fresh('first'));
        const changed = change(history);
        const other = await ask([...changed, user('next')]);
        assert.notEqual(other, id);
        assert.deepEqual(await texted(id), [
          ['user', String(history[0]?.content)],
          ['assistant', String(history[1]?.content)],
        ]);
        const past = changed.filter(({ role }, at) => at > 0 || role !== 'system');
        assert.deepEqual(await imported(other), [...past.map(() => true), false, false]);
        // It is found again.
        const again = await ask([...changed, user('next'), said('echo: next'), user('more')]);
        assert.equal(again, other);
      });
    }

    it('compares tool calls whatever their white space, their results and images', async () => {
      const text = fresh('add');
      const asked = [
        user([
          { type: 'text', text },
          { type: 'image_url', image_url: { url: PIXEL } },
        ]),
      ];
      const calls = { index: 0, message: { role: 'assistant', content: null, tool_calls: [CALL] } };
      chat.upstream.respond([json({ model: 'm', choices: [{ ...calls, finish_reason: 'tool_calls' }] })]);
      const id = await ask(asked);
      const compact = { ...CALL, function: { name: 'sum', arguments: '{"a":1,"b":2}' } };
      const answered = [
        ...asked,
        { role: 'assistant', content: '', tool_calls: [compact], annotations: [], refusal: null },
        { role: 'tool', tool_call_id: 'c1', content: '3' },
      ];
      assert.equal(await ask(answered), id);
      const { messages } = await chat.read(id);
      assert.deepEqual(
        messages.map(({ role, tool_calls, tool_call_id }) => [role, tool_calls?.[0]?.id, tool_call_id]),
        [
          ['user', undefined, undefined],
          ['assistant', 'c1', undefined],
          ['tool', undefined, 'c1'],
          ['assistant', undefined, undefined],
        ],
      );
      const reply = said(messages[3]?.content ?? '');
      assert.equal(await ask([...answered, reply, user('thanks')]), id);
      const withoutImage = answered.with(0, user(text));
      assert.notEqual(await ask([...withoutImage, reply, user('thanks')]), id);
      // The model server got the messages as they are.
      assert.deepEqual(chat.upstream.requests.at(-2)?.sentMessages, [...answered, reply, user('thanks')]);
    });

    it('of two calls that continue one history, one begins a new conversation', async () => {
      const { id, history } = await begin(fresh('fork'));
      const gate = createGate();
      chat.upstream.respond([
        async (exchange) => {
          await gate.opened;
          return reply('left')(exchange);
        },
        async (exchange) => {
          await gate.opened;
          return reply('right')(exchange);
        },
      ]);
      const calls = chat.upstream.requests.length;
      const both = [ask([...history, user('a')]), ask([...history, user('b')])];
      await chat.upstream.waitForRequest(calls + 2);
      gate.open();
      const ids = await Promise.all(both);
      assert.equal(new Set(ids).size, 2);
      assert(ids.includes(id));
      for (const each of ids) assert.equal((await texted(each)).length, 4);
    });

    it('a call that failed before its first text is repeated in the same conversation', async () => {
      const { id, history } = await begin(fresh('retry'));
      chat.upstream.respond([status(500)]);
      const question = [...history, user('again?')];
      const failed = await chat.call('POST', '/v1/chat/completions', { messages: question });
      openAiErrorOf(failed, 502, 'upstream_error');
      assert.equal(await ask(question), id);
      assert.deepEqual((await texted(id)).slice(2), [
        ['user', 'again?'],
        ['assistant', 'echo: again?'],
      ]);
      assert.equal(await ask([...question, said('echo: again?'), user('and on')]), id);
    });

    it('continues what native turns have begun, by the messages that are visible', async () => {
      const text = fresh('native');
      const { conversation_id: id } = await chat.ask({ message: text });
      const history = [user(text), said(`echo: ${text}`)];
      assert.equal(await ask([...history, user('on')]), id);
      const { message_id } = await chat.ask({ message: 'third', conversation_id: id });
      const longer = [...history, user('on'), said('echo: on'), user('third'), said('echo: third')];
      assert.equal(await ask([...longer, user('fourth')]), id);
      const question = (await chat.rows(id)).find(({ uid }) => uid === message_id)?.reply_to;
      await chat.ask({ conversation_id: id, edit: question, message: 'instead' });
      assert.notEqual(await ask([...longer, user('fifth')]), id);
      const edited = [...longer.slice(0, 4), user('instead'), said('echo: instead')];
      assert.equal(await ask([...edited, user('fifth')]), id);
    });

    it('continues a revised conversation as soon as its reply has come', async () => {
      const { id, history } = await begin(fresh('revised'));
      for (let round = 0; round < 5; round++) {
        await ask([...history, user(`${round}`)]);
        const regenerate = (await chat.read(id)).messages.at(-1)?.id;
        await chat.ask({ conversation_id: id, regenerate });
        history.push(user(`${round}`), said(`echo: ${round}`));
        assert.equal(await ask([...history, user(`after ${round}`)]), id);
        history.push(user(`after ${round}`), said(`echo: after ${round}`));
      }
    });

    it('continues a conversation whose system prompt was changed, by the new one', async () => {
      const { id, history } = await begin(fresh('prompt'));
      await chat.call('PATCH', `/api/conversations/${id}`, { system: 'Be brief.' });
      assert.equal(await ask([system('Be brief.'), ...history, user('on')]), id);
      await chat.call('PATCH', `/api/conversations/${id}`, { system: null });
      assert.equal(await ask([...history, user('on'), said('echo: on'), user('and on')]), id);
    });

    it('continues copies, of which the one used last is taken', async () => {
      const { id, history } = await begin(fresh('source'));
      assert.equal(await ask([...history, user('second')]), id);
      const { messages } = await chat.read(id);
      const copy = async (body: object) => {
        const { text } = await chat.call('POST', `/api/conversations/${id}/fork`, body);
        return String(JSON.parse(text).conversation_id);
      };
      const start = await copy({ message_id: messages[1]?.id });
      assert.equal(await ask([...history, user('another way')]), start);
      const whole = await copy({});
      assert.equal(await ask([...history, user('second'), said('echo: second'), user('on')]), whole);
      // The source is as it was.
      assert.equal(await ask([...history, user('second'), said('echo: second'), user('on')]), id);
    });

    it('continues imported conversations', async () => {
      const { id, history } = await begin(fresh('exported'));
      const { text } = await chat.call('GET', `/api/conversations/${id}/export?format=ndjson`);
      await chat.call('DELETE', `/api/conversations/${id}`);
      const headers = { 'content-type': 'application/x-ndjson' };
      const imported = await fetch(`${chat.url}/api/imports`, { method: 'POST', headers, body: text });
      assert.equal(imported.status, 200, await imported.text());
      assert.equal(await ask([...history, user('on')]), id);
    });

    it('continues no expired conversation, and not by its name either', async () => {
      const { id, history } = await begin(fresh('expired'));
      const { knex } = chat.server.database;
      await knex('conversations').where({ id }).update({ last_active: '2020-01-01 00:00:00.000' });
      const messages = [...history, user('on')];
      assert.notEqual(await ask(messages), id);
      const named = await chat.call(
        'POST',
        '/v1/chat/completions',
        { messages },
        { 'x-conversation-id': id },
      );
      openAiErrorOf(named, 404, 'conversation_not_found');
    });

    it('continues no deleted conversation', async () => {
      const { id, history } = await begin(fresh('deleted'));
      await chat.call('DELETE', `/api/conversations/${id}`);
      assert.notEqual(await ask([...history, user('on')]), id);
    });

    it('continues the conversation of the same end user', async () => {
      const text = fresh('whose');
      const history = [user(text), said(`echo: ${text}`), user('on')];
      const ada = await ask([user(text)], { user: 'ada' });
      const bob = await ask([user(text)], { user: 'bob' });
      const none = await ask([user(text)]);
      assert.deepEqual(
        [await ask(history, { user: 'ada' }), await ask(history, { user: 'bob' }), await ask(history)],
        [ada, bob, none],
      );
      assert.equal((await chat.read(ada)).user, 'ada');
    });

    it('with too much metadata for the conversation is rejected before the model is called', async () => {
      const text = fresh('full');
      const full = Object.fromEntries(Array.from({ length: 16 }, (_, at) => [`k${at}`, 'v']));
      const id = await ask([user(text)], { metadata: full });
      const history = [user(text), said(`echo: ${text}`), user('on')];
      const calls = chat.upstream.requests.length;
      const before = await chat.countRows();
      for (const headers of [{}, { 'x-conversation-id': id }]) {
        for (const stream of [false, true]) {
          const body = { messages: history, metadata: { another: '1' }, stream };
          const answer = await chat.call('POST', '/v1/chat/completions', body, headers);
          assert.equal(openAiErrorOf(answer, 400, 'validation').param, 'metadata');
        }
      }
      assert.deepEqual(await chat.countRows(), before);
      assert.equal(await ask(history, { metadata: { k0: 'changed' } }), id);
      assert.equal(chat.upstream.requests.length, calls + 1, 'only the last one reached the model');
      assert.deepEqual((await chat.read(id)).metadata, { ...full, k0: 'changed' });
    });

    it('is stored where X-Conversation-Id says, with the new messages alone', async () => {
      const { id } = await begin(fresh('named'));
      const headers = { 'x-conversation-id': id };
      const sent = [user('other'), said('words'), user('new')];
      assert.equal(await ask(sent, {}, headers), id);
      assert.deepEqual((await texted(id)).slice(2), [
        ['user', 'new'],
        ['assistant', 'echo: new'],
      ]);
      assert.deepEqual(chat.upstream.requests.at(-1)?.sentMessages, sent);
      for (const unknown of [crypto.randomUUID(), 'forged', '../etc']) {
        const before = await chat.countRows();
        const answer = await chat.call(
          'POST',
          '/v1/chat/completions',
          { messages: sent },
          {
            'x-conversation-id': unknown,
          },
        );
        openAiErrorOf(answer, 404, 'conversation_not_found');
        assert.deepEqual(await chat.countRows(), before);
      }
    });

    it('with store: false nothing is stored', async () => {
      const before = await chat.countRows();
      const answer = await chat.call('POST', '/v1/chat/completions', {
        messages: [user(fresh('secret'))],
        store: false,
      });
      assert.equal(answer.status, 200);
      assert.equal(answer.headers['x-conversation-id'], undefined);
      assert.equal(answer.headers['x-stream-id'], undefined);
      assert.deepEqual(await chat.countRows(), before);
    });

    it('stores 1,000 messages once', async () => {
      const long = Array.from({ length: 500 }, (_, n) => [user(fresh(`q${n}`)), said(`a${n}`)]).flat();
      const id = await ask([...long, user('last')]);
      assert.equal((await imported(id)).length, 1002);
      assert.equal(await ask([...long, user('last'), said('echo: last'), user('more')]), id);
    });

    it('stores instructions and images of a history, and nothing twice', async () => {
      const sent = [
        user([
          { type: 'text', text: fresh('look') },
          { type: 'image_url', image_url: { url: PIXEL } },
        ]),
        said('A pixel.'),
        { role: 'developer', content: 'Be rude.' },
        user([{ type: 'input_audio', input_audio: { data: 'AAAA', format: 'wav' } }]),
      ];
      const id = await ask(sent);
      const { messages } = await chat.read(id);
      assert.deepEqual(
        messages.map(({ role, parts }) => [role, parts?.length]),
        [
          ['user', 2],
          ['assistant', undefined],
          ['system', undefined],
          ['user', undefined],
          ['assistant', undefined],
        ],
      );
      const instruction = messages[2]?.id;
      for (const body of [{ regenerate: instruction }, { edit: instruction, message: 'x' }]) {
        const refused = await chat.call('POST', '/api/chat', { ...body, conversation_id: id });
        problemOf(refused, 400, 'validation');
      }
      const answer = said(messages.at(-1)?.content ?? '');
      assert.equal(await ask([...sent, answer, user('on')]), id);
    });
  });
}

describe('turns of clients with keys', () => {
  let server: ProtectedServer;
  before(async () => {
    const [sqlite] = databases();
    assert(sqlite);
    server = await startProtected(sqlite);
  });
  after(() => server.stop());

  it('continue conversations of the owner of the key, and of no other', async () => {
    const [ada, alsoAda, bob] = [
      await server.person('ada'),
      await server.person('ada'),
      await server.person('bob'),
    ];
    const ask = async (person: Person, messages: Messages) => {
      const answer = await person.call('POST', '/v1/chat/completions', { messages });
      assert.equal(answer.status, 200, answer.text);
      return String(answer.headers['x-conversation-id']);
    };
    const history = [user('Hello'), said('echo: Hello'), user('on')];
    const [hers, his] = [await ask(ada, [user('Hello')]), await ask(bob, [user('Hello')])];
    assert.deepEqual([await ask(alsoAda, history), await ask(bob, history)], [hers, his]);
    // Bob's conversation is used last, and the administrator may read both.
    assert(![hers, his].includes(await ask(server.root, history)));
  });

  it('fail with the error of the openai package for a wrong key', async () => {
    const calls = server.upstream.requests.length;
    for (const apiKey of ['ck_wrong', 'sk-other', ' ']) {
      const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 2 });
      for (const call of [
        () => client.models.list(),
        () => client.chat.completions.create({ model: 'm', messages: [{ role: 'user', content: 'Hi' }] }),
        () => client.chat.completions.stream({ model: 'm', messages: [] }).done(),
      ]) {
        const error: unknown = await Promise.resolve(call()).catch((reason: unknown) => reason);
        assert(error instanceof OpenAI.AuthenticationError, String(error));
        assert.equal(error.type, 'authentication_error');
      }
    }
    assert.equal(server.upstream.requests.length, calls);
  });
});
