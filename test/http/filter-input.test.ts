import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { v7 as uuid } from 'uuid';
import { type ChatServer, databases, problemOf, startChat, until } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  reply,
  script,
  silence,
  status,
  thenSilence,
  wait,
} from '../support/fake-upstream.ts';
import { checkStream, joined, openStream } from '../support/sse-client.ts';
import { type WordListFile, wordListFile } from '../support/word-list.ts';

const BAD = '说 敏 感词 吧, BUY  NOW';
const MASKED = '说 **** 吧, BUY  NOW';

/** What the model was asked last. */
const asked = (chat: ChatServer) =>
  chat.upstream.requests.at(-1)?.body.messages.map(({ role, content }) => `${role}: ${content}`);

const contents = async (chat: ChatServer, id: string) => (await chat.rows(id)).map(({ content }) => content);

function suite(env: Record<string, string>, ...words: string[]) {
  const server: { chat: ChatServer; list: WordListFile } = {} as never;
  before(async () => {
    server.list = await wordListFile(...words);
    server.chat = await startChat({ CONTENT_FILTER_FILE: server.list.path, ...env }, { lookAtWordsMs: 20 });
  });
  after(async () => {
    await server.chat.stop();
    server.list.remove();
  });
  return server;
}

describe('questions with masked words', () => {
  const server = suite({ SYSTEM_PROMPT: '敏感词 is what the operator says' }, '敏感词', 'buy now');

  it('reach the model masked, and are stored as they were sent', async () => {
    const { chat } = server;
    const { conversation_id: id } = await chat.ask({ message: BAD });
    assert.deepEqual(asked(chat), ['system: 敏感词 is what the operator says', `user: ${MASKED}`]);
    assert.equal((await contents(chat, id))[0], BAD);
  });

  it('are masked in the history too; the model’s replies are not', async () => {
    const { chat } = server;
    chat.upstream.respond([reply('我说敏感词')]);
    const { conversation_id } = await chat.ask({ message: BAD, cache: false });
    await chat.ask({ message: '然后', conversation_id });
    assert.deepEqual(asked(chat)?.slice(1), [`user: ${MASKED}`, 'assistant: 我说敏感词', 'user: 然后']);
  });

  for (const [route, member] of [
    ['/api/chat', (content: object[]) => ({ message: content, cache: false })],
    ['/v1/chat/completions', (content: object[]) => ({ messages: [{ role: 'user', content }] })],
  ] as const) {
    it(`are masked in each part, which is a line of its own, on ${route}`, async () => {
      const { chat } = server;
      const image = { type: 'image_url', image_url: { url: 'https://example.com/a.png' } };
      const parts = (...texts: string[]) => [image, ...texts.map((text) => ({ type: 'text', text }))];
      const texts = ['😀 Buy now!', 'buy', 'now', '敏感词'];
      const answer = await chat.call('POST', route, member(parts(...texts)));
      assert.equal(answer.status, 200, answer.text);
      const sent: unknown = chat.upstream.requests.at(-1)?.sentMessages;
      assert.deepEqual(
        (sent as { content: unknown }[]).at(-1)?.content,
        parts('😀 *******!', 'buy', 'now', '***'),
      );
      const id = answer.headers['x-conversation-id'] ?? JSON.parse(answer.text).conversation_id;
      const [question] = (await chat.read(id)).messages;
      assert.deepEqual([question?.content, question?.parts], [texts.join('\n'), parts(...texts)]);
    });
  }

  it('match an idempotency key only if they were sent with the same words', async () => {
    const { chat } = server;
    const headers = { 'idempotency-key': 'one' };
    const first = await chat.call('POST', '/api/chat', { message: BAD }, headers);
    const again = await chat.call('POST', '/api/chat', { message: BAD }, headers);
    assert.deepEqual([first.status, again.status, again.text], [200, 200, first.text]);
    problemOf(
      await chat.call('POST', '/api/chat', { message: MASKED }, headers),
      422,
      'idempotency_mismatch',
    );
  });
});

describe('questions with blocked words', () => {
  const server = suite({ CONTENT_FILTER_INPUT: 'block' }, '敏感词');

  it('are rejected before the model and the store, and the error quotes no word', async () => {
    const { chat } = server;
    const id = uuid();
    for (const path of ['/api/chat', '/api/chat-stream']) {
      for (const headers of [{}, { 'idempotency-key': 'free' }]) {
        const body = { message: BAD, conversation_id: id };
        const answer = await chat.call('POST', path, body, headers);
        const { detail } = problemOf(answer, 422, 'content_blocked');
        assert.equal(detail, 'Content blocked');
        assert.ok(!answer.text.includes('感'));
      }
    }
    assert.equal(chat.upstream.requests.length, 0);
    assert.deepEqual(await chat.countRows(), { conversations: 0, messages: 0 });
    assert.ok(!JSON.stringify(chat.server.lines).includes('感词'));
    // The key was not used up.
    const answer = await chat.call('POST', '/api/chat', { message: 'hi' }, { 'idempotency-key': 'free' });
    assert.equal(answer.status, 200, answer.text);
  });

  it('are filtered as plain text, without skipping marks', async () => {
    const { chat } = server;
    await chat.ask({ message: '敏**感词' });
    assert.deepEqual(asked(chat), ['user: 敏**感词']);
  });

  it('do not block a conversation that had the words before they were in the list', async () => {
    const { chat, list } = server;
    const { conversation_id } = await chat.ask({ message: '新词 here' });
    await list.save('敏感词', '新词');
    await until('the new list', async () => {
      const { status: code } = await chat.call('POST', '/api/chat', { message: '新词' });
      return code === 422;
    });
    await chat.ask({ message: '然后', conversation_id });
    assert.deepEqual(asked(chat), ['user: ** here', 'assistant: echo: 新词 here', 'user: 然后']);
  });

  it('replay the reply of a key that was used before the word was in the list', async () => {
    const { chat, list } = server;
    const headers = { 'idempotency-key': 'before' };
    const send = (key: object) => chat.call('POST', '/api/chat', { message: '更新的词' }, { ...key });
    const first = await send(headers);
    await list.save('更新的词');
    await until('the new list', async () => (await send({})).status === 422);
    const again = await send(headers);
    assert.deepEqual([again.status, again.text.includes('"response":"echo: 〇〇〇〇"')], [200, true]);
    assert.equal(first.status, 200);
  });
});

describe('questions that are not filtered', () => {
  const server = suite({ CONTENT_FILTER_INPUT: 'off', CONTENT_FILTER_STORE: 'filtered' }, '敏感词');

  it('reach the model and the store as they were sent', async () => {
    const { chat } = server;
    chat.upstream.respond([reply('好'), reply('好')]);
    const { conversation_id } = await chat.ask({ message: BAD });
    await chat.ask({ message: '然后', conversation_id });
    assert.deepEqual(asked(chat), [`user: ${BAD}`, 'assistant: 好', 'user: 然后']);
    assert.equal((await contents(chat, conversation_id))[0], BAD);
  });
});

for (const database of databases()) {
  describe(`a store with filtered texts (${database.name})`, () => {
    let list: WordListFile;
    let env: Record<string, string>;
    before(async () => {
      list = await wordListFile('敏感词');
      env = {
        ...(await database.create()),
        CONTENT_FILTER_FILE: list.path,
        CONTENT_FILTER_STORE: 'filtered',
        CHECKPOINT_MS: '50',
      };
    });
    after(async () => {
      await database.drop();
      list.remove();
    });

    const withServer = async (action: string, work: (chat: ChatServer) => Promise<void>) => {
      const chat = await startChat({ ...env, CONTENT_FILTER_OUTPUT: action });
      await work(chat).finally(() => chat.stop());
    };

    it('has masked questions and replies, in conversations, exports and the cache', () =>
      withServer('mask', async (chat) => {
        chat.upstream.respond(reply('很**敏感**词好', { chunks: 9 }));
        const whole = await chat.ask({ message: BAD });
        assert.equal(whole.response, '很**〇〇**〇好');
        const { conversation_id: id } = whole;
        assert.deepEqual(await contents(chat, id), [MASKED, '很**〇〇**〇好']);
        const read = await chat.read(id);
        assert.deepEqual(
          read.messages.map(({ content }) => content),
          [MASKED, '很**〇〇**〇好'],
        );
        const exported = await chat.call('GET', `/api/conversations/${id}/export?format=csv`);
        assert.ok(exported.text.includes('很**〇〇**〇好') && !exported.text.includes('敏'));
        // A reply that the cache gives without a call, in the other format.
        const cached = await chat.ask({ message: BAD, format: 'text' });
        assert.deepEqual([cached.cached, cached.response], [true, '很〇〇〇好']);
        const reader = await openStream(chat.url, { message: 'stream', cache: false });
        assert.equal(joined(await reader.rest()), '很〇〇〇好');
        const [, row] = await contents(chat, String(reader.headers['x-conversation-id']));
        assert.equal(row, '很**〇〇**〇好');
      }));

    it('never has part of a word in a running reply', () =>
      withServer('mask', async (chat) => {
        const gate = createGate();
        chat.upstream.respond([script(delta('很敏感'), wait(gate), delta('词'), silence())]);
        const reader = await openStream(chat.url, { message: 'q', cache: false });
        const id = String(reader.headers['x-conversation-id']);
        await until('a checkpoint', async () => (await contents(chat, id))[1] === '很');
        gate.open();
        await until('a checkpoint', async () => (await contents(chat, id))[1] === '很〇〇〇');
        await chat.call('DELETE', `/api/chat-stream/${reader.headers['x-stream-id']}`);
        await reader.rest();
      }));

    it('has the text of a blocked reply before the word, and the call is aborted', () =>
      withServer('block', async (chat) => {
        chat.upstream.respond([thenSilence('很**敏', '感**词', '好')]);
        const reader = await openStream(chat.url, { message: 'q', format: 'markdown' });
        const events = await reader.rest();
        const end = checkStream(events);
        assert.equal(joined(events), '很**');
        assert.deepEqual([end.type, end.data.finish_reason], ['done', 'content_filter']);
        assert.ok((await chat.upstream.waitForClosed(1)).closed);
        const row = (await chat.rows(String(reader.headers['x-conversation-id']))).at(-1);
        assert.deepEqual(
          [row?.content, row?.status, row?.finish_reason],
          ['很**', 'complete', 'content_filter'],
        );
        // Not kept in the cache.
        chat.upstream.respond(reply('好'));
        assert.equal((await chat.ask({ message: 'q' })).response, '好');
        chat.upstream.respond(reply('很敏感词'));
        const whole = await chat.ask({ message: 'whole' });
        assert.deepEqual([whole.response, whole.finish_reason], ['很', 'content_filter']);
      }));

    it('has the masked question once when it was sent again with its key after a failure', () =>
      withServer('mask', async (chat) => {
        const headers = { 'idempotency-key': 'failed' };
        chat.upstream.respond([status(500)]);
        const send = () => chat.call('POST', '/api/chat', { message: BAD }, headers);
        problemOf(await send(), 502, 'upstream_error');
        const again = await send();
        assert.deepEqual(asked(chat), [`user: ${MASKED}`]);
        const { conversation_id: id } = JSON.parse(again.text);
        assert.deepEqual(await contents(chat, id), [MASKED, `echo: ${MASKED}`]);
      }));
  });
}
