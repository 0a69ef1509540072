import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { OpenAI } from 'openai';
import { completion } from '../../src/http/openai/schemas.ts';
import { type ChatServer, startChat } from '../support/chat-server.ts';
import { reply } from '../support/fake-upstream.ts';

describe('POST /v1/chat/completions', () => {
  let chat: ChatServer;
  let client: OpenAI;
  before(async () => {
    chat = await startChat();
    client = new OpenAI({ baseURL: `${chat.url}/v1`, apiKey: 'ck_none', maxRetries: 0 });
  });
  after(() => chat.stop());

  const ask = (messages: object[], more: object = {}, headers: Record<string, string> = {}) =>
    chat.call('POST', '/v1/chat/completions', { model: 'm', messages, ...more }, headers);

  it('replies with every required member, and stores the turn', async () => {
    const answer = await ask([{ role: 'user', content: 'Hello' }]);
    assert.equal(answer.status, 200, answer.text);
    const body = completion.parse(JSON.parse(answer.text));
    assert.deepEqual(JSON.parse(answer.text), body);
    assert.deepEqual(body.choices, [
      {
        index: 0,
        message: { role: 'assistant', content: 'echo: Hello', refusal: null },
        logprobs: null,
        finish_reason: 'stop',
      },
    ]);
    const id = String(answer.headers['x-conversation-id']);
    const { messages } = await chat.read(id);
    assert.deepEqual(
      messages.map(({ role, content }) => [role, content]),
      [
        ['user', 'Hello'],
        ['assistant', 'echo: Hello'],
      ],
    );
  });

  it('streams chunks to the openai package', async () => {
    chat.upstream.respond([reply('One two three', { chunks: 3 })]);
    const stream = await client.chat.completions.create({
      model: 'm',
      messages: [{ role: 'user', content: 'Count' }],
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    assert.equal(new Set(chunks.map(({ id }) => id)).size, 1);
    assert.equal(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''), 'One two three');
    assert.equal(chunks[0]?.choices[0]?.delta.role, 'assistant');
    assert.equal(chunks.at(-2)?.choices[0]?.finish_reason, 'stop');
    assert.deepEqual(chunks.at(-1)?.choices, []);
    assert.equal(chunks.at(-1)?.usage?.total_tokens, 8);
  });
});
