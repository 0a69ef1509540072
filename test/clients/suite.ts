/** What every client of OpenAI's API must be able to do with `/v1`; a file per client has what its calls look like. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { databases, until } from '../support/chat-server.ts';
import {
  chunk,
  delta,
  done,
  finish,
  type Handler,
  hang,
  json,
  raw,
  reply,
  role,
  script,
  status,
  thenSilence,
  usage,
} from '../support/fake-upstream.ts';
import { bodyOf, type Person, type ProtectedServer, startProtected } from '../support/keys.ts';

export interface Place {
  /** With `/v1`. */
  readonly baseURL: string;
  readonly apiKey: string;
}

export interface Said {
  readonly role: 'user' | 'assistant';
  readonly content: string;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** How often the client may repeat the call; 0 unless it is given. */
  readonly retries?: number;
}

export interface Answer {
  readonly text: string;
  readonly totalTokens: number | undefined;
}

/** A client at one place; each method is one use of it. */
export interface Client {
  ask(messages: readonly Said[], options?: CallOptions): Promise<Answer>;
  /** @param onText gets the pieces of the reply as they come */
  stream(messages: readonly Said[], onText: (text: string) => void, options?: CallOptions): Promise<Answer>;
  /** Asks with the tool `get_weather`, runs its calls and sends their results until there is a reply. */
  askWithTool(question: string, run: (city: string) => string, streamed: boolean): Promise<string>;
  /** @param png base64 */
  askAboutImage(question: string, png: string): Promise<string>;
  statusOf(error: unknown): number | undefined;
}

export const WEATHER = {
  name: 'get_weather',
  description: 'The weather of a city',
  parameters: {
    type: 'object' as const,
    properties: { city: { type: 'string' as const } },
    required: ['city'],
    additionalProperties: false,
  },
};

const PIXEL =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPj/HwADAgH/0ssUFwAAAABJRU5ErkJggg==';
const CALL = {
  id: 'call_1',
  type: 'function',
  function: { name: WEATHER.name, arguments: '{"city":"Paris"}' },
};

/** A reply that calls the tool; streamed, its arguments come in two pieces. */
const callsTool: Handler = (exchange) => {
  if (!exchange.request.body.stream) {
    const message = { role: 'assistant', content: null, tool_calls: [CALL] };
    return json({
      id: 'chatcmpl-1',
      model: 'fake-model',
      choices: [{ index: 0, message, finish_reason: 'tool_calls' }],
    })(exchange);
  }
  const called = { ...CALL, function: { name: WEATHER.name, arguments: '{"city":' } };
  return script(
    role(),
    raw(chunk({ tool_calls: [{ index: 0, ...called }] })),
    raw(chunk({ tool_calls: [{ index: 0, function: { arguments: '"Paris"}' } }] })),
    finish('tool_calls'),
    usage(),
    done(),
  )(exchange);
};

const user = (content: string): Said => ({ role: 'user', content });

export function describeClient(name: string, create: (place: Place) => Client): void {
  describe(name, () => {
    let chat: ProtectedServer;
    let alice: Person;
    let client: Client;

    before(async () => {
      const [sqlite] = databases();
      assert(sqlite);
      chat = await startProtected(sqlite);
      alice = await chat.person('alice');
      client = create({ baseURL: `${chat.url}/v1`, apiKey: alice.key });
    });
    after(() => chat.stop());

    const sent = () => chat.upstream.requests.at(-1)?.sentMessages;
    const conversations = async (): Promise<{ conversation_id: string }[]> =>
      bodyOf(await alice.call('GET', '/api/conversations')).conversations;

    /** The messages of the newest conversation, as its owner reads them. */
    async function stored(): Promise<
      { role: string; content: string; status: string; parts?: { type: string }[] }[]
    > {
      const [newest] = await conversations();
      return bodyOf(await alice.call('GET', `/api/conversations/${newest?.conversation_id}`)).messages;
    }
    const essence = async () => (await stored()).map(({ role, content, status }) => [role, content, status]);

    it('gets a reply, which is stored', async () => {
      const answer = await client.ask([user('Hello')]);
      assert.equal(answer.text, 'echo: Hello');
      assert.equal(answer.totalTokens, 8);
      assert.deepEqual(sent(), [{ role: 'user', content: 'Hello' }]);
      assert.deepEqual(await essence(), [
        ['user', 'Hello', 'complete'],
        ['assistant', 'echo: Hello', 'complete'],
      ]);
    });

    it('reads a stream piece by piece', async () => {
      const { promise: read, resolve } = Promise.withResolvers<void>();
      const first: Handler = script(
        role(),
        delta('One '),
        // The rest waits until the client has the first piece.
        () => read,
        delta('two'),
        finish(),
        usage(),
        done(),
      );
      chat.upstream.respond([first]);
      const pieces: string[] = [];
      const answer = await client.stream([user('Count')], (text) => {
        pieces.push(text);
        resolve();
      });
      assert.deepEqual(pieces.filter(Boolean), ['One ', 'two']);
      assert.equal(answer.totalTokens, 8);
      assert.deepEqual((await essence()).at(-1), ['assistant', 'One two', 'complete']);
    });

    it('continues a conversation by its own history', async () => {
      const count = (await conversations()).length;
      const messages = [user('My name is Ada')];
      for (const question of ['What is my name?', 'Are you sure?']) {
        const { text } = await client.ask(messages);
        messages.push({ role: 'assistant', content: text }, user(question));
      }
      await client.stream(messages, () => {});
      assert.deepEqual(
        (await stored()).map(({ content }) => content),
        [...messages.map(({ content }) => content), 'echo: Are you sure?'],
      );
      assert.equal((await conversations()).length, count + 1);
    });

    for (const streamed of [false, true]) {
      it(`calls a tool and sends its result${streamed ? ', streamed' : ''}`, async () => {
        const count = (await conversations()).length;
        chat.upstream.respond([callsTool, reply('It is sunny')]);
        const cities: string[] = [];
        const run = (city: string) => {
          cities.push(city);
          return '21 °C, sunny';
        };
        assert.equal(await client.askWithTool('How is the weather?', run, streamed), 'It is sunny');
        assert.deepEqual(cities, ['Paris']);
        const body = chat.upstream.requests.at(-1)?.body;
        assert.equal(JSON.stringify(body?.tools).split(WEATHER.name).length, 2);
        assert.deepEqual(
          body?.messages.map((message) => [message.role, message.tool_call_id]),
          [
            ['user', undefined],
            ['assistant', undefined],
            ['tool', CALL.id],
          ],
        );
        assert.match(body?.messages[2]?.content ?? '', /21 °C, sunny/);
        assert.deepEqual(
          (await stored()).map(({ role }) => role),
          ['user', 'assistant', 'tool', 'assistant'],
        );
        assert.equal((await conversations()).length, count + 1);
      });
    }

    it('sends an image', async () => {
      assert.equal(await client.askAboutImage('What is it?', PIXEL), 'echo: What is it?');
      const [message] = sent() as { content: { type: string; image_url?: { url: string } }[] }[];
      assert.deepEqual(
        message?.content.map(({ type, image_url }) => [type, image_url?.url]),
        [
          ['text', undefined],
          ['image_url', `data:image/png;base64,${PIXEL}`],
        ],
      );
      const [question] = await stored();
      assert.deepEqual(
        question?.parts?.map(({ type }) => type),
        ['text', 'image_url'],
      );
    });

    it('aborts a stream, which stops the model and keeps what was said', async () => {
      const nth = chat.upstream.requests.length + 1;
      chat.upstream.respond([thenSilence('One ')]);
      const controller = new AbortController();
      const { signal } = controller;
      // Some clients end the stream instead of failing.
      await client.stream([user('Stop me')], () => controller.abort(), { signal }).catch(() => {});
      await chat.upstream.waitForClosed(nth);
      await until('the end of the turn', async () => (await stored())[1]?.status !== 'streaming');
      assert.deepEqual(await essence(), [
        ['user', 'Stop me', 'complete'],
        ['assistant', 'One ', 'cancelled'],
      ]);
    });

    it('aborts a call, which stops the model', async () => {
      const nth = chat.upstream.requests.length + 1;
      chat.upstream.respond([hang()]);
      const controller = new AbortController();
      const asked = client.ask([user('Never mind')], { signal: controller.signal });
      await chat.upstream.waitForRequest(nth);
      controller.abort();
      await assert.rejects(asked);
      await chat.upstream.waitForClosed(nth);
    });

    it('understands a rate limit', async () => {
      const { key } = bodyOf(
        await chat.root.call('POST', '/api/keys', { owner: 'bob', scopes: ['chat'], requests: 1 }),
        201,
      );
      const limited = create({ baseURL: `${chat.url}/v1`, apiKey: key });
      await limited.ask([user('Hello')]);
      const calls = chat.upstream.requests.length;
      for (const again of [
        () => limited.ask([user('Hello')]),
        () => limited.stream([user('Hello')], () => {}),
      ]) {
        await assert.rejects(again, (error) => limited.statusOf(error) === 429);
      }
      assert.equal(chat.upstream.requests.length, calls);
    });

    it('repeats a call of a busy model server', async () => {
      chat.upstream.respond([status(429, { 'retry-after': '0' })]);
      assert.equal((await client.ask([user('Again')], { retries: 1 })).text, 'echo: Again');
    });

    it('fails with the error in a stream', async () => {
      chat.upstream.respond([
        script(delta('One '), raw('data: {"error":{"message":"upstream says no"}}\n\n')),
      ]);
      const pieces: string[] = [];
      await assert.rejects(
        client.stream([user('Fail')], (text) => pieces.push(text)),
        (error) => !String(error).includes('upstream says no'),
      );
      assert.equal(pieces.join(''), 'One ');
    });
  });
}
