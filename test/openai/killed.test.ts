/** A server that is killed in a stream of `/v1`. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { OpenAI } from 'openai';
import { until } from '../support/chat-server.ts';
import { makeFolder } from '../support/child-server.ts';
import { delta, reply, script, silence, startFakeUpstream } from '../support/fake-upstream.ts';
import { checkStream, joined, resumeStream } from '../support/sse-client.ts';

it('kill -9 in a stream is an error for the client, whose partial history continues the conversation', async (t) => {
  const upstream = await startFakeUpstream();
  const folder = await makeFolder();
  t.after(async () => {
    await folder.remove();
    await upstream.close();
  });
  const env = {
    PORT: '0',
    HOST: '127.0.0.1',
    OPENAI_BASE_URL: upstream.baseUrl,
    CHECKPOINT_MS: '50',
    LOG_FORMAT: 'json',
  };
  const first = folder.start(env);
  const url = await first.listening();
  upstream.respond([script(delta('so far'), silence())]);
  const question = { role: 'user' as const, content: 'Hello' };
  const create = (at: string, messages: OpenAI.ChatCompletionMessageParam[]) =>
    new OpenAI({ baseURL: `${at}/v1`, apiKey: 'none', maxRetries: 0 }).chat.completions
      .create({ model: 'm', messages, stream: true })
      .withResponse();
  const { data, response } = await create(url, [question]);
  const ids = [response.headers.get('x-conversation-id'), response.headers.get('x-stream-id')];
  let text = '';
  const reading = (async () => {
    for await (const { choices } of data) text += choices[0]?.delta.content ?? '';
  })();
  await until('the text to be stored', async () => {
    const stored = await fetch(`${url}/api/conversations/${ids[0]}`);
    return JSON.parse(await stored.text()).messages[1]?.content === 'so far';
  });
  first.process.kill('SIGKILL');
  await assert.rejects(reading);
  assert.equal(text, 'so far');
  await first.exited();

  const again = await folder.start(env).listening();
  const events = await (await resumeStream(again, String(ids[1]))).rest();
  assert.deepEqual([checkStream(events).data.code, joined(events)], ['reply_incomplete', 'so far']);
  upstream.respond([reply('and on')]);
  const next = await create(again, [
    question,
    { role: 'assistant', content: text },
    { role: 'user', content: 'Go on' },
  ]);
  for await (const _ of next.data);
  assert.equal(next.response.headers.get('x-conversation-id'), ids[0]);
});
