import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, startChat } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  type FakeUpstream,
  finish,
  script,
  startFakeUpstream,
  status,
  wait,
} from '../support/fake-upstream.ts';
import { checkStream, openStream } from '../support/sse-client.ts';

describe('the fallback model server', () => {
  let chat: ChatServer;
  let second: FakeUpstream;
  before(async () => {
    second = await startFakeUpstream();
    chat = await startChat({
      OPENAI_MAX_RETRIES: '0',
      OPENAI_FALLBACK_BASE_URL: second.baseUrl,
      OPENAI_FALLBACK_MODEL: 'second',
      SSE_OPEN_MS: '100',
    });
  });
  after(async () => {
    await chat.stop();
    await second.close();
  });

  const ask = async (message: string) => {
    const { headers, text } = await chat.call('POST', '/api/chat', { message });
    return { from: headers['x-upstream'], body: JSON.parse(text) };
  };
  const stream = async (message: string) => {
    const reader = await openStream(chat.url, { message });
    const { data } = checkStream(await reader.rest());
    return { from: reader.headers['x-upstream'], done: data.upstream };
  };

  it('is named in the header of a reply, and its replies are not cached', async () => {
    assert.equal((await ask('first')).from, 'primary');
    assert.equal((await ask('first')).from, undefined, 'a cached reply comes from neither');
    chat.upstream.respond([status(500)]);
    const { from, body } = await ask('second');
    assert.deepEqual([from, body.response, body.cached], ['fallback', 'echo: second', false]);
    assert.equal((await ask('second')).from, 'primary');
  });

  it('is named in the header of a stream and in its done event', async () => {
    assert.deepEqual(await stream('a stream'), { from: 'primary', done: 'primary' });
    chat.upstream.respond([status(401)]);
    assert.deepEqual(await stream('another stream'), { from: 'fallback', done: 'fallback' });
  });

  it('is not named in headers that are sent before a token', async () => {
    const gate = createGate();
    chat.upstream.respond(script(wait(gate), delta('late'), finish(), done()));
    const reader = await openStream(chat.url, { message: 'a late stream' });
    gate.open();
    const { data } = checkStream(await reader.rest());
    assert.deepEqual([reader.headers['x-upstream'], data.upstream], [undefined, 'primary']);
  });
});
