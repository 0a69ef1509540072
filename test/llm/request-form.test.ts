import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import type { ModelOutcome, ModelRequest } from '../../src/domain/chat/model.ts';
import type { ModelOptions } from '../../src/llm/model.ts';
import { delta, type Handler, json, raw, reply, role, script, status } from '../support/fake-upstream.ts';
import { textReader } from '../support/fakes.ts';
import { never, type Setup, setUp } from './setup.ts';

type Way = (model: Setup['model'], request: ModelRequest) => Promise<ModelOutcome>;
const WAYS: readonly (readonly [string, Way])[] = [
  ['complete', (model, request) => model.complete(request, never())],
  ['stream', (model, request) => model.stream(request, textReader(), never())],
];

const ASKED: ModelRequest = {
  model: 'm',
  messages: [{ role: 'user', content: 'hello' }],
  parameters: { temperature: 0.7, max_tokens: 100 },
};

/** An error inside a response of 200, as the caller asked: in an event, or as the body. */
const inside =
  (message: string, code?: number): Handler =>
  (exchange) => {
    const error = { error: { message, code } };
    const asStream = script(role(), raw(`data: ${JSON.stringify(error)}\n\n`));
    return (exchange.request.body.stream ? asStream : json(error))(exchange);
  };

const says = (message: string, code = 400): Handler =>
  status(code, {}, JSON.stringify({ error: { message } }));

/** A model server that refuses these members, one after the other. */
const refusing =
  (...members: readonly string[]): Handler =>
  (exchange) => {
    const member = members.find((name) => name in exchange.request.body);
    return (member ? says(`Unsupported parameter: '${member}'`) : reply('well'))(exchange);
  };

async function start(t: TestContext, handler: Handler, options: Partial<ModelOptions> = {}) {
  const setup = await setUp(t, { maxRetries: 0, ...options });
  setup.upstream.respond(handler);
  const bodies = () => setup.upstream.requests.map(({ body }) => body);
  return { ...setup, bodies };
}

for (const [name, ask] of WAYS) {
  describe(`${name}: a member that the model server refuses`, () => {
    test('is left out of one repeat, and of later calls of this model only', async (t) => {
      const { model, bodies, lines } = await start(t, refusing('temperature'));
      await ask(model, ASKED);
      assert.deepEqual(
        bodies().map((body) => body.temperature),
        [0.7, undefined],
      );
      await ask(model, ASKED);
      assert.equal(bodies().length, 3);
      await ask(model, { ...ASKED, model: 'other' });
      assert.equal(bodies().length, 5);
      assert.equal(lines.length, 2, 'one line for each refusal');
      assert.partialDeepStrictEqual(lines[0], {
        level: 'info',
        message: 'upstream rejected the request, will adapt it',
        fields: { refused_member: 'temperature' },
      });
    });

    test('is sent by its successor: max_tokens as max_completion_tokens', async (t) => {
      const { model, bodies } = await start(t, refusing('max_tokens'));
      await ask(model, ASKED);
      const limits = bodies().map((body) => [body.max_tokens, body.max_completion_tokens]);
      assert.deepEqual(limits, [
        [100, undefined],
        [undefined, 100],
      ]);
    });

    test('may be all of them, one after the other', async (t) => {
      const all = ['stream_options', 'max_tokens', 'max_completion_tokens', 'temperature'];
      const { model, bodies } = await start(t, refusing(...all));
      await ask(model, ASKED);
      await ask(model, ASKED);
      const last = bodies().at(-1) ?? {};
      assert.deepEqual(Object.keys(last).sort(), ['messages', 'model', 'stream']);
      assert.equal(bodies().length, name === 'stream' ? 6 : 5);
    });

    test('is not sent where the settings say so', async (t) => {
      const { model, bodies } = await start(t, refusing('stream_options', 'max_tokens', 'temperature'), {
        refused: ['stream_options', 'max_tokens', 'temperature'],
      });
      await ask(model, ASKED);
      assert.equal(bodies().length, 1);
      assert.equal(bodies()[0]?.max_completion_tokens, 100);
    });

    test('is sent again when its absence did not help', async (t) => {
      const { model, bodies } = await start(t, says('Invalid message "what is temperature?"'));
      for (const _ of [1, 2]) await assert.rejects(ask(model, ASKED), { code: 'upstream_rejected' });
      assert.deepEqual(
        bodies().map((body) => 'temperature' in body),
        [true, false, true, false],
      );
    });

    test('opens no circuit', async (t) => {
      const { model, bodies } = await start(t, refusing('temperature'), { breaker: { minCalls: 1 } });
      await ask(model, ASKED);
      assert.equal(bodies().length, 2);
      assert.deepEqual(model.openCircuits(), []);
    });

    test('that is not named in the error causes no repeat', async (t) => {
      const { model, bodies } = await start(t, says('Something is wrong'));
      await assert.rejects(ask(model, ASKED), { code: 'upstream_rejected' });
      assert.equal(bodies().length, 1);
    });
  });

  describe(`${name}: a conversation that is too long for its model`, () => {
    const turn = (size: number) => [
      { role: 'user', content: 'q'.repeat(size / 2) } as const,
      { role: 'assistant', content: 'a'.repeat(size / 2) } as const,
    ];
    const conversation = (...sizes: readonly number[]): ModelRequest => ({
      ...ASKED,
      messages: [
        { role: 'system', content: 'kind' },
        ...sizes.flatMap(turn),
        { role: 'user', content: 'last' },
      ],
    });
    /** A model server whose context has so many characters. */
    const withContext =
      (size: number, message: string): Handler =>
      (exchange) => {
        const length = exchange.request.body.messages.map(({ content }) => content).join('').length;
        return (length > size ? says(message.replace('$', `${length}`)) : reply('well'))(exchange);
      };
    const lengths = (bodies: readonly { messages: readonly unknown[] }[]) =>
      bodies.map(({ messages }) => messages.length);

    test('loses half of its turns, the oldest, until it fits', async (t) => {
      const { model, bodies } = await start(t, withContext(20, 'context length exceeded'));
      const { omitted } = await ask(model, conversation(10, 10, 10, 10, 10));
      assert.deepEqual(lengths(bodies()), [12, 6, 4]);
      assert.equal(omitted, 8);
      const [system, ...rest] = bodies().at(-1)?.messages ?? [];
      assert.deepEqual(
        [system?.role, rest.map(({ content }) => content)],
        ['system', ['qqqqq', 'aaaaa', 'last']],
      );
    });

    test('loses no more than it must where the error says how much fits', async (t) => {
      const { model, bodies } = await start(
        t,
        withContext(9000, 'prompt is too long: $ tokens > 9000 maximum'),
      );
      await ask(model, conversation(...Array.from({ length: 10 }, () => 1000)));
      assert.deepEqual(lengths(bodies()), [22, 18]);
    });

    test('loses all of them at the third time, and is then rejected', async (t) => {
      const { model, bodies } = await start(t, withContext(2, 'context length exceeded'));
      const error = await ask(model, conversation(...Array.from({ length: 20 }, () => 10))).then(
        () => assert.fail(),
        (reason: Error) => reason,
      );
      assert.match(error.message, /too long for this model/);
      assert.deepEqual(lengths(bodies()), [42, 22, 12, 2]);
    });

    test('without any turn is rejected without a repeat', async (t) => {
      const { model, bodies } = await start(t, says('', 413));
      await assert.rejects(ask(model, ASKED), { code: 'upstream_rejected' });
      assert.equal(bodies().length, 1);
    });

    test('keeps its turns when the limit of the reply is what is too large, and the limit is not forgotten', async (t) => {
      const tooLarge =
        "'max_tokens' or 'max_completion_tokens' is too large: 100. This model's maximum context length is 90";
      const { model, bodies } = await start(t, (exchange) =>
        ('max_tokens' in exchange.request.body ? says(tooLarge) : reply('well'))(exchange),
      );
      for (const _ of [1, 2]) await ask(model, conversation(10, 10));
      assert.deepEqual(lengths(bodies()), [6, 6, 6, 6]);
      assert.deepEqual(
        bodies().map((body) => body.max_tokens),
        [100, undefined, 100, undefined],
      );
    });

    test('may be reported inside a 200, like a member', async (t) => {
      const { model, bodies } = await start(t, (exchange) => {
        const { messages, temperature } = exchange.request.body;
        if (messages.length > 2) return inside('input is longer than the context length', 400)(exchange);
        return (temperature === undefined ? reply('well') : inside('temperature is not supported'))(exchange);
      });
      await ask(model, conversation(10));
      assert.deepEqual(lengths(bodies()), [4, 2, 2]);
    });

    test('opens no circuit, also where the status is 500', async (t) => {
      const { model } = await start(
        t,
        (exchange) =>
          (exchange.request.body.messages.length > 2
            ? says('context size has been exceeded', 500)
            : reply('well'))(exchange),
        { breaker: { minCalls: 1 } },
      );
      await ask(model, conversation(10, 10));
      assert.deepEqual(model.openCircuits(), []);
    });
  });
}

test('an error after the first token is never repeated', async (t) => {
  const { model, bodies } = await start(
    t,
    script(delta('one'), raw('data: {"error":{"message":"context length exceeded","code":400}}\n\n')),
  );
  await assert.rejects(
    model.stream({ ...ASKED, messages: [...ASKED.messages, ...ASKED.messages] }, textReader(), never()),
  );
  assert.equal(bodies().length, 1);
});
