import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, openAiErrorOf, startChat } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  type FakeUpstream,
  finish,
  hang,
  json,
  reply,
  script,
  silence,
  startFakeUpstream,
  status,
  wait,
} from '../support/fake-upstream.ts';
import { checkStream, openStream } from '../support/sse-client.ts';
import { wordListFile } from '../support/word-list.ts';

describe('the fallback model server', () => {
  let chat: ChatServer;
  let second: FakeUpstream;
  before(async () => {
    second = await startFakeUpstream();
    chat = await startChat({
      OPENAI_MAX_RETRIES: '0',
      OPENAI_FALLBACK_BASE_URL: second.baseUrl,
      OPENAI_FALLBACK_MODEL: 'second',
      SSE_OPEN_MS: '1000',
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

  const V1 = { messages: [{ role: 'user', content: 'by /v1' }] };
  for (const streamed of [false, true]) {
    it(`is named in the header on /v1${streamed ? ', streamed' : ''}, and says which model replied`, async () => {
      const call = () => chat.call('POST', '/v1/chat/completions', { ...V1, stream: streamed });
      assert.equal((await call()).headers['x-upstream'], 'primary');
      chat.upstream.respond([status(503)]);
      second.respond([
        json({ model: 'second', choices: [{ index: 0, message: { content: 'Hi' }, finish_reason: 'stop' }] }),
      ]);
      const { headers, text } = await call();
      assert.equal(headers['x-upstream'], 'fallback');
      assert.match(text, /"model":"second"/);
      assert.equal(second.requests.at(-1)?.body.model, 'second');
    });

    it(`does not get what is wrong with the request, nor a call whose caller has left${streamed ? ', streamed' : ''}`, async () => {
      const before = second.requests.length;
      const body = { ...V1, stream: streamed };
      for (const code of [400, 422]) {
        chat.upstream.respond([status(code)]);
        openAiErrorOf(await chat.call('POST', '/v1/chat/completions', body), 502, 'upstream_rejected');
      }
      chat.upstream.respond([hang()]);
      const number = chat.upstream.requests.length + 1;
      const left = new AbortController();
      const calling = fetch(`${chat.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: left.signal,
      }).then((response) => response.text());
      await chat.upstream.waitForRequest(number);
      left.abort();
      await assert.rejects(calling);
      await chat.upstream.waitForClosed(number);
      assert.equal(second.requests.length, before);
    });
  }

  it('is named in replies that the content filter blocks', async (t) => {
    const words = await wordListFile('forbidden');
    const filtered = await startChat({
      OPENAI_MAX_RETRIES: '0',
      OPENAI_FALLBACK_BASE_URL: second.baseUrl,
      CONTENT_FILTER_FILE: words.path,
      CONTENT_FILTER_STORE: 'filtered',
      CONTENT_FILTER_INPUT: 'off',
      CONTENT_FILTER_OUTPUT: 'block',
    });
    t.after(async () => {
      await filtered.stop();
      words.remove();
    });
    const message = 'Is it?';
    const pieces = [delta('it is forbidden to'), silence()];
    for (const from of ['primary', 'fallback']) {
      const prepare = (streamed: boolean) => {
        if (from === 'fallback') filtered.upstream.respond([status(500)]);
        const answering = from === 'primary' ? filtered.upstream : second;
        answering.respond([streamed ? script(...pieces) : reply('it is forbidden to')]);
      };
      prepare(false);
      const whole = await filtered.call('POST', '/api/chat', { message });
      assert.equal(JSON.parse(whole.text).finish_reason, 'content_filter');
      assert.equal(whole.headers['x-upstream'], from);
      prepare(true);
      const reader = await openStream(filtered.url, { message });
      const { data } = checkStream(await reader.rest());
      assert.deepEqual([data.finish_reason, data.upstream], ['content_filter', from]);
    }
  });

  it('is counted, by the error of the first one', async () => {
    const counted = async () =>
      (await chat.call('GET', '/metrics')).text.match(/^chat_upstream_fallbacks_total\{.*$/gm)?.sort();
    const before = await counted();
    chat.upstream.respond([status(401)]);
    await ask('counted');
    assert.notDeepEqual(await counted(), before);
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
