/** What the model server does with one request must not cost other requests, and is repaired where that is possible. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, problemOf, startChat } from '../support/chat-server.ts';
import { type Handler, type RecordedRequest, reply, status } from '../support/fake-upstream.ts';

describe('a model that keeps failing', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({}, { breaker: { openMinMs: 60_000, openMaxMs: 60_000 } });
    chat.upstream.respond((exchange) => {
      const { model } = exchange.request.body;
      return (model === 'broken' ? status(500) : reply('well'))(exchange);
    });
  });
  after(() => chat.stop());

  it('blocks neither other models nor readiness, which names it', async () => {
    const ask = (model: string) => chat.call('POST', '/api/chat', { message: 'x', model, cache: false });
    const failed = await Promise.all(Array.from({ length: 12 }, () => ask('broken')));
    assert.ok(failed.every((answer) => answer.status >= 502));
    problemOf(await ask('broken'), 503, 'upstream_busy');
    assert.equal((await ask('good')).status, 200);
    const ready = await chat.call('GET', '/health/ready');
    assert.deepEqual([ready.status, JSON.parse(ready.text).open_circuits], [200, ['broken']]);
  });
});

const MODEL_CHARS = 40_000;
const sizeOf = ({ body }: RecordedRequest) =>
  body.messages.reduce((sum, { content }) => sum + content.length, 0);
/** Refuses what its context does not hold, as OpenAI does; else replies with the number of messages. */
const limited: Handler = (exchange) => {
  const { request } = exchange;
  if (sizeOf(request) <= MODEL_CHARS) return reply(`of ${request.body.messages.length}`)(exchange);
  const error = { message: 'Too long', code: 'context_length_exceeded' };
  return status(400, {}, JSON.stringify({ error }))(exchange);
};

describe('a conversation that no longer fits its model', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({ MESSAGE_MAX_CHARS: '50000' });
    chat.upstream.respond(limited);
  });
  after(() => chat.stop());

  /** Asks both ways, and reads the reply. */
  const WAYS = {
    JSON: async (body: object) => (await chat.ask(body)).response,
    stream: async (body: object) => {
      const answer = await chat.call('POST', '/api/chat-stream', body);
      assert.equal(answer.status, 200, answer.text);
      assert.match(answer.text, /event: done/);
      return [...answer.text.matchAll(/^data: (.*)$/gm)]
        .map(([, data]) => JSON.parse(data ?? '').content)
        .join('');
    },
  };

  for (const [name, ask] of Object.entries(WAYS)) {
    it(`continues without its oldest turns (${name}), and is not refused again`, async () => {
      const { conversation_id } = await chat.ask({ message: `${name}${'a'.repeat(30_000)}` });
      assert.equal(await ask({ conversation_id, message: `${name}${'b'.repeat(9000)}` }), 'of 3');
      const before = chat.upstream.requests.length;
      assert.equal(await ask({ conversation_id, message: `${name}${'c'.repeat(1200)}` }), 'of 3');
      assert.equal(chat.upstream.requests.length - before, 2, 'refused once');
      assert.equal(await ask({ conversation_id, message: `${name}${'d'.repeat(1200)}` }), 'of 5');
      assert.equal(chat.upstream.requests.length - before, 3, 'not refused again');
      const { messages } = await chat.read(conversation_id);
      assert.equal(messages.length, 8, 'nothing is lost in the store');
    });
  }

  it('is not remembered for another model', async () => {
    const { conversation_id } = await chat.ask({ message: `e${'a'.repeat(30_000)}` });
    await chat.ask({ conversation_id, message: `e${'b'.repeat(9990)}` });
    await chat.ask({ conversation_id, message: 'c' });
    chat.upstream.respond([reply('well')]);
    await chat.ask({ conversation_id, message: 'd', model: 'large' });
    assert.equal(chat.upstream.requests.at(-1)?.body.messages.length, 7);
  });

  it('leaves a reply in the cache for the context that was sent, and for no other', async () => {
    const long = `f${'a'.repeat(39_900)}`;
    const first = await chat.ask({ message: long });
    const second = await chat.ask({ message: 'short question' });
    const { conversation_id } = first;
    const question = { conversation_id, message: 'g'.repeat(200) };
    assert.deepEqual(await chat.ask(question).then(({ response, cached }) => [response, cached]), [
      'of 1',
      false,
    ]);
    const alone = await chat.ask({ message: 'g'.repeat(200) });
    assert.deepEqual([alone.response, alone.cached], ['of 1', true]);
    const other = await chat.ask({ conversation_id: second.conversation_id, message: 'g'.repeat(200) });
    assert.deepEqual([other.response, other.cached], ['of 3', false]);
  });

  it('is refused in one sentence when the question alone is too long', async () => {
    const problem = problemOf(
      await chat.call('POST', '/api/chat', { message: 'a'.repeat(41_000) }),
      502,
      'upstream_rejected',
    );
    assert.match(problem.detail, /too long for this model/);
  });
});

describe('settings of what is sent', () => {
  it('HISTORY_MAX_TOKENS keeps the newest turns that fit, and OPENAI_COMPAT leaves members out', async (t) => {
    const chat = await startChat({
      HISTORY_MAX_TOKENS: '100',
      OPENAI_COMPAT: 'no_stream_options, max_completion_tokens,no_temperature',
      OPENAI_MAX_TOKENS: '50',
      OPENAI_TEMPERATURE: '0.5',
    });
    t.after(() => chat.stop());
    chat.upstream.respond(reply('y'.repeat(40)));
    const { conversation_id } = await chat.ask({ message: 'a'.repeat(160) });
    for (const text of ['b', '中'])
      await chat.ask({ conversation_id, message: text.repeat(text === 'b' ? 160 : 40) });
    await chat.call('POST', '/api/chat-stream', { conversation_id, message: 'last' });
    const { body } = chat.upstream.requests.at(-1) ?? assert.fail();
    // Four bytes a token: the two newest turns have 50 and 40.
    assert.deepEqual(
      body.messages.map(({ content }) => content[0]),
      ['b', 'y', '中', 'y', 'l'],
    );
    const { messages: _messages, model: _model, ...rest } = body;
    assert.deepEqual(rest, { stream: true, max_completion_tokens: 50 });
  });
});
