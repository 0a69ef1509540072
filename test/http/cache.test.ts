import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, startChat, until } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  endWithoutFinish,
  finish,
  type Handler,
  reply,
  script,
  status,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { checkStream, joined, openStream, type SseReader } from '../support/sse-client.ts';

describe('the response cache', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({ SSE_OPEN_MS: '0', REPLY_MAX_BYTES: '1024' });
  });
  after(() => chat.stop());
  const calls = () => chat.upstream.requests.length;
  const useOf = async (body: object) => {
    const answer = await chat.call('POST', '/api/chat', body);
    return [answer.headers['cache-status'], JSON.parse(answer.text).cached];
  };
  const stored = async (id: string) => (await chat.rows(id)).map(({ content }) => content);

  it('answers a repeated question without a call, and stores another turn', async () => {
    const first = await chat.ask({ message: 'twice' });
    const before = calls();
    const answer = await chat.call('POST', '/api/chat', { message: 'twice' });
    assert.equal(calls(), before);
    assert.match(String(answer.headers['cache-status']), /^chat; hit; ttl=(3600|3599)$/);
    const second = JSON.parse(answer.text);
    const own = {
      cached: true,
      conversation_id: second.conversation_id,
      message_id: second.message_id,
      question_id: second.question_id,
      expires_at: second.expires_at,
    };
    assert.deepEqual(second, { ...first, ...own });
    assert.notEqual(second.conversation_id, first.conversation_id);
    assert.notEqual(second.message_id, first.message_id);
    assert.notEqual(second.question_id, first.question_id);
    assert.deepEqual(await stored(second.conversation_id), ['twice', 'echo: twice']);
  });

  for (const [name, content] of [
    ['an image', '![](http://127.0.0.1/y.png)'],
    ['a rule', '---'],
  ] as const) {
    it(`a reply that is only ${name} is an error in the text form, a reply as Markdown, and never cached`, async () => {
      const before = calls();
      chat.upstream.respond([reply(content), reply(content), reply(content)]);
      const message = `only ${name}`;
      const text = await chat.call('POST', '/api/chat', { message, format: 'text' });
      assert.deepEqual([text.status, JSON.parse(text.text).code], [502, 'upstream_empty']);
      const reader = await openStream(chat.url, { message, format: 'text' });
      assert.equal(checkStream(await reader.rest()).data.code, 'upstream_empty');
      assert.equal((await chat.ask({ message })).response, content);
      assert.equal(calls() - before, 3);
    });
  }

  it('shares its replies between JSON and streams, in either format', async () => {
    chat.upstream.respond([reply('**bold** 😀')]);
    const whole = await chat.ask({ message: 'shared' });
    const before = calls();
    for (const [format, text] of [
      ['text', 'bold 😀'],
      ['markdown', '**bold** 😀'],
    ] as const) {
      const reader = await openStream(chat.url, { message: 'shared', format });
      const events = await reader.rest();
      const end = checkStream(events);
      assert.match(String(reader.headers['cache-status']), /^chat; hit; ttl=\d+$/);
      assert.equal(events[0]?.data.cached, true);
      assert.equal(joined(events), text);
      assert.deepEqual([end.data.finish_reason, end.data.usage], ['stop', whole.usage]);
      assert.deepEqual(await stored(String(reader.headers['x-conversation-id'])), ['shared', '**bold** 😀']);
    }
    chat.upstream.respond([reply('from a stream')]);
    await (await openStream(chat.url, { message: 'the other way' })).rest();
    assert.equal((await chat.ask({ message: 'the other way' })).response, 'from a stream');
    assert.equal(calls(), before + 1);
  });

  it('replays a reply in pieces, like a stream, and splits no character', async () => {
    const text = `a${'😀'.repeat(200)}`;
    chat.upstream.respond([reply(text)]);
    await chat.ask({ message: 'pairs' });
    const reader = await openStream(chat.url, { message: 'pairs' });
    const events = await reader.rest();
    checkStream(events);
    assert.equal(joined(events), text);
    assert(events.length > 10, `${events.length} events`);
  });

  it('misses for another context or another model', async () => {
    const id = crypto.randomUUID();
    await chat.ask({ message: 'and now?', conversation_id: id });
    const before = calls();
    chat.upstream.respond([reply('it depends'), reply('on the model')]);
    const inContext = await chat.ask({ message: 'and now?', conversation_id: id });
    assert.deepEqual([inContext.response, inContext.cached], ['it depends', false]);
    const otherModel = await chat.ask({ message: 'and now?', model: 'other' });
    assert.deepEqual([otherModel.response, otherModel.cached], ['on the model', false]);
    assert.equal(calls(), before + 2);
    // The same context once more: two conversations that went the same way share.
    const twin = crypto.randomUUID();
    await chat.ask({ message: 'and now?', conversation_id: twin });
    const again = await chat.ask({ message: 'and now?', conversation_id: twin });
    assert.deepEqual([again.response, again.cached], ['it depends', true]);
    assert.equal(calls(), before + 2);
  });

  it('distinguishes similar messages', async () => {
    const alike = ['alike', 'alike ', ' alike', 'Alike', 'alike\n', 'ali\u200bke', 'é', 'e\u0301'];
    const before = calls();
    for (const message of alike) assert.equal((await chat.ask({ message })).response, `echo: ${message}`);
    assert.equal(calls() - before, alike.length);
  });

  it('is bypassed, for reading and storing, with "cache": false', async () => {
    const before = calls();
    const past = { message: 'fresh', cache: false };
    assert.deepEqual(await useOf(past), ['chat; fwd=bypass', false]);
    assert.deepEqual(await useOf(past), ['chat; fwd=bypass', false]);
    assert.deepEqual(await useOf({ message: 'fresh' }), ['chat; fwd=miss', false]);
    assert.deepEqual(await useOf(past), ['chat; fwd=bypass', false]);
    assert.match((await useOf({ message: 'fresh', cache: true })).join(), /^chat; hit; ttl=\d+,true$/);
    assert.equal(calls() - before, 4);
  });

  const unfit: [what: string, handler: Handler][] = [
    ['an error', status(500)],
    ['a broken-off reply', endWithoutFinish('half')],
    ['a reply the model cut for its length', reply('half', { finishReason: 'length' })],
    ['a filtered reply', reply('half', { finishReason: 'content_filter' })],
    ['a reply that a cap of this server cut', reply('long '.repeat(500))],
  ];
  for (const [what, handler] of unfit) {
    it(`never keeps ${what}`, async () => {
      for (const path of ['/api/chat', '/api/chat-stream']) {
        const message = `${what} on ${path}`;
        chat.upstream.respond([handler]);
        await chat.call('POST', path, { message });
        const again = await chat.ask({ message });
        assert.deepEqual([again.cached, again.response], [false, `echo: ${message}`]);
      }
    });
  }

  describe('with 20 identical concurrent questions', () => {
    /** Opens them while the one call is held at its first token. */
    const crowd = async (message: string) => {
      const [first, second] = [createGate(), createGate()];
      const before = calls();
      chat.upstream.respond([
        script(wait(first), delta('one, '), wait(second), delta('two'), finish(), usage(), done()),
      ]);
      const readers: SseReader[] = [];
      for (let n = 0; n < 20; n += 1) readers.push(await openStream(chat.url, { message }));
      for (const reader of readers) await reader.until('start');
      return { first, second, readers, made: () => calls() - before };
    };
    const finishAll = async (readers: readonly SseReader[]) => {
      for (const reader of readers) {
        const events = await reader.rest();
        assert.equal(joined(events), 'one, two');
        assert.equal(events.at(-1)?.data.finish_reason, 'stop');
      }
    };

    it('makes one call, gives each reader the whole reply and stores 20 turns', async () => {
      const { first, second, readers, made } = await crowd('crowd');
      first.open();
      second.open();
      await finishAll(readers);
      assert.equal(made(), 1);
      const uses = readers.map(({ headers }) => headers['cache-status']);
      assert.deepEqual(uses, ['chat; fwd=miss', ...Array(19).fill('chat; fwd=miss; collapsed')]);
      const ids = new Set(readers.map(({ headers }) => String(headers['x-conversation-id'])));
      assert.equal(ids.size, 20);
      for (const id of ids) assert.deepEqual(await stored(id), ['crowd', 'one, two']);
    });

    it('continues for the others when the first, or all but one, disconnect', async () => {
      const { first, second, readers, made } = await crowd('leaving crowd');
      first.open();
      const [leader, ...others] = readers;
      const last = others.pop();
      assert(leader && last);
      leader.leave();
      for (const reader of others) reader.leave();
      await until(
        'nineteen access lines',
        () => chat.server.lines.filter(({ client }) => client === 'gone').length === 19,
      );
      second.open();
      await finishAll([last]);
      assert.equal(made(), 1);
      for (const { headers } of readers) {
        const id = String(headers['x-conversation-id']);
        await until('the reply of a reader that left', async () => (await stored(id)).length === 2);
        assert.deepEqual(await stored(id), ['leaving crowd', 'one, two']);
      }
    });

    it('lets a late one read from the start', async () => {
      const { first, second, readers } = await crowd('late crowd');
      first.open();
      await readers[0]?.until('content');
      const late = await openStream(chat.url, { message: 'late crowd' });
      await late.until('start');
      second.open();
      await finishAll([late, ...readers.slice(1)]);
    });

    it('fails for all of them when the call fails, without a call for each', async () => {
      const gate = createGate();
      const before = calls();
      chat.upstream.respond([
        async (exchange) => {
          await wait(gate)(exchange);
          await status(401)(exchange);
        },
      ]);
      const readers: SseReader[] = [];
      for (let n = 0; n < 20; n += 1) readers.push(await openStream(chat.url, { message: 'doomed' }));
      gate.open();
      for (const reader of readers) {
        assert.equal(checkStream(await reader.rest()).data.code, 'upstream_error');
      }
      assert.equal(calls() - before, 1);
    });
  });
});

describe('the settings of the response cache', () => {
  it('drops a reply after CACHE_TTL_SECONDS', async (t) => {
    const chat = await startChat({ CACHE_TTL_SECONDS: '1' });
    t.after(() => chat.stop());
    await chat.ask({ message: 'short-lived' });
    const hit = await chat.call('POST', '/api/chat', { message: 'short-lived' });
    assert.equal(hit.headers['cache-status'], 'chat; hit; ttl=1');
    await until('a miss', async () => !(await chat.ask({ message: 'short-lived' })).cached);
    assert.equal(chat.upstream.requests.length, 2);
  });

  for (const off of ['CACHE_MAX_BYTES', 'CACHE_TTL_SECONDS']) {
    it(`switch it off with ${off}=0, for sharing too`, async (t) => {
      const chat = await startChat({ [off]: '0', SSE_OPEN_MS: '0' });
      t.after(() => chat.stop());
      const gate = createGate();
      chat.upstream.respond(script(wait(gate), delta('x'), finish(), done()));
      const readers = [];
      for (let n = 0; n < 3; n += 1) readers.push(await openStream(chat.url, { message: 'same' }));
      gate.open();
      for (const reader of readers) {
        assert.equal(reader.headers['cache-status'], 'chat; fwd=bypass');
        assert.equal(joined(await reader.rest()), 'x');
      }
      assert.equal(chat.upstream.requests.length, 3);
    });
  }

  it('answer a repeated question of one conversation from the cache without a history', async (t) => {
    const chat = await startChat({ SYSTEM_PROMPT: 'Be brief.', HISTORY_LIMIT: '0' });
    t.after(() => chat.stop());
    const id = crypto.randomUUID();
    await chat.ask({ message: 'x', conversation_id: id });
    assert.equal((await chat.ask({ message: 'x', conversation_id: id })).cached, true);
    assert.deepEqual(
      chat.upstream.requests.map(({ body }) => body.messages.map(({ content }) => content)),
      [['Be brief.', 'x']],
    );
    assert.equal((await chat.rows(id)).length, 4);
  });
});
