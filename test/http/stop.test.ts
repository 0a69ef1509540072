import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { z } from 'zod';
import { stopped } from '../../src/http/schemas/streams.ts';
import { type ChatServer, databases, problemOf, shaped, startChat, until } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  finish,
  hang,
  script,
  silence,
  thenReset,
  thenSilence,
  wait,
} from '../support/fake-upstream.ts';
import { type Pair, startPair } from '../support/pair.ts';
import { checkStream, joined, openStream, resumeStream, type SseReader } from '../support/sse-client.ts';

async function stop(chat: ChatServer, id: string): Promise<z.output<typeof stopped>> {
  return shaped(stopped, await chat.call('DELETE', `/api/chat-stream/${id}`));
}

const idsOf = ({ headers }: SseReader) => ({
  id: String(headers['x-stream-id']),
  conversation: String(headers['x-conversation-id']),
});

/** A stream that has said these words and says no more. */
async function silentAfter(chat: ChatServer, words: readonly string[], body: object = {}) {
  const number = chat.upstream.requests.length + 1;
  chat.upstream.respond([thenSilence(...words)]);
  const message = 'on and on';
  const reader = await openStream(chat.url, { message, format: 'markdown', cache: false, ...body });
  const events = [await reader.until('start')];
  while (joined(events) !== words.join('')) events.push(await reader.until('content'));
  return { reader, events, number, ...idsOf(reader) };
}

const WORDS = ['**Half** ', 'of a 😀 ', 'reply'];
const SAID = WORDS.join('');

for (const place of databases()) {
  describe(`DELETE /api/chat-stream/{id}, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      // Long checkpoints, so that the stored text comes from the stop.
      chat = await startChat({ ...(await place.create()), SSE_OPEN_MS: '600000', CHECKPOINT_MS: '1000' });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });

    it('ends the reply and its call immediately, and keeps exactly the text that its readers got', async () => {
      const { reader, events, number, id, conversation } = await silentAfter(chat, WORDS);
      const other = await resumeStream(chat.url, id, { lastEventId: `${id}:4` });
      const asked = performance.now();
      assert.deepEqual(await stop(chat, id), {
        stream_id: id,
        conversation_id: conversation,
        stopped: true,
        status: 'cancelled',
      });
      await chat.upstream.waitForClosed(number);
      assert(performance.now() - asked < 1000);
      events.push(...(await reader.rest()));
      const end = checkStream(events);
      assert.deepEqual(
        [end.type, end.data],
        [
          'done',
          { content: '', finish_reason: 'cancelled', usage: null, persisted: true, length: SAID.length },
        ],
      );
      assert.equal(joined(events), SAID);
      const rest = await other.rest();
      assert.deepEqual(checkStream(rest).data, end.data);
      assert.equal(joined(rest), SAID.slice(4));
      const { messages } = await chat.read(conversation);
      assert.deepEqual(
        messages.map(({ content, status }) => [content, status]),
        [
          ['on and on', 'complete'],
          [SAID, 'cancelled'],
        ],
      );
      const again = await (await resumeStream(chat.url, id)).rest();
      assert.deepEqual(checkStream(again).data, end.data);
      assert.equal(joined(again), SAID);
    });

    it('sends a text reader the held-back text, so that it has the stored text', async () => {
      const words = ['# Title\n\n**bold', '** and `co', 'de` ', '*open'];
      chat.upstream.respond([script(...words.map(delta), silence())]);
      const reader = await openStream(chat.url, { message: 'held', format: 'text' });
      const { id, conversation } = idsOf(reader);
      // Who reads the same call as Markdown sees when all of it has come.
      const other = await openStream(chat.url, { message: 'held', format: 'markdown' });
      const seen = [await other.until('start')];
      while (joined(seen) !== words.join('')) seen.push(await other.until('content'));
      await stop(chat, id);
      await stop(chat, idsOf(other).id);
      const events = await reader.rest();
      checkStream(events);
      assert.equal(joined(events), 'Title\n\nbold and code *open');
      assert.equal((await chat.rows(conversation))[1]?.content, words.join(''));
    });

    it('changes nothing the second time, also concurrently', async () => {
      const { reader, id } = await silentAfter(chat, WORDS);
      const reports = await Promise.all([1, 2, 3].map(() => stop(chat, id)));
      assert.deepEqual(reports.map(({ stopped: first }) => first).sort(), [false, false, true]);
      assert.deepEqual([...new Set(reports.map(({ status }) => status))], ['cancelled']);
      await reader.rest();
      const later = await stop(chat, id);
      assert.deepEqual([later.stopped, later.status], [false, 'cancelled']);
    });

    it('changes nothing after the end, and returns the status', async () => {
      for (const [handler, status] of [
        [script(delta('whole'), finish(), done()), 'complete'],
        [thenReset('Half'), 'incomplete'],
      ] as const) {
        chat.upstream.respond([handler]);
        const reader = await openStream(chat.url, { message: 'over', format: 'markdown', cache: false });
        const { id, conversation } = idsOf(reader);
        await reader.rest();
        const before = await chat.rows(conversation);
        const report = { stream_id: id, conversation_id: conversation, stopped: false, status };
        assert.deepEqual(await stop(chat, id), report);
        assert.deepEqual(await chat.rows(conversation), before);
      }
    });

    it('before the first token ends with an empty cancelled reply', async () => {
      const conversation = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([hang()]);
      const opening = openStream(chat.url, { message: 'not yet', conversation_id: conversation });
      const row = await until('the row of the reply', async () => (await chat.rows(conversation))[1]);
      assert.deepEqual(await stop(chat, row.uid), {
        stream_id: row.uid,
        conversation_id: conversation,
        stopped: true,
        status: 'cancelled',
      });
      const reader = await opening;
      const events = await reader.rest();
      assert.equal(checkStream(events).data.finish_reason, 'cancelled');
      assert.equal(joined(events), '');
      await chat.upstream.waitForClosed(number);
      assert.equal((await chat.rows(conversation))[1]?.status, 'cancelled');
      const again = await stop(chat, row.uid);
      assert.deepEqual([again.stopped, again.status], [false, 'cancelled']);
    });

    it('of a JSON reply ends it without text', async () => {
      const conversation = crypto.randomUUID();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([hang()]);
      const asking = chat.ask({ message: 'whole', conversation_id: conversation });
      const message = await until('the message', async () => {
        const answer = await chat.call('GET', `/api/conversations/${conversation}`);
        return answer.status === 200 && (await chat.read(conversation)).messages[1];
      });
      assert.deepEqual([message.role, message.status], ['assistant', 'streaming']);
      assert.equal((await stop(chat, message.id)).stopped, true);
      const answer = await asking;
      assert.deepEqual(
        [answer.message_id, answer.response, answer.finish_reason, answer.persisted],
        [message.id, '', 'cancelled', true],
      );
      await chat.upstream.waitForClosed(number);
    });

    it('keeps the partial reply in the context of the next question', async () => {
      const { reader, id, conversation } = await silentAfter(chat, WORDS);
      await stop(chat, id);
      await reader.rest();
      await chat.ask({ message: 'and then?', conversation_id: conversation });
      assert.deepEqual(
        chat.upstream.requests.at(-1)?.body.messages.map(({ role, content }) => [role, content]),
        [
          ['user', 'on and on'],
          ['assistant', SAID],
          ['user', 'and then?'],
        ],
      );
    });

    it('of one of two that share a call stops only that one', async () => {
      const gate = createGate();
      const number = chat.upstream.requests.length + 1;
      chat.upstream.respond([script(delta('shared '), wait(gate), delta('to the end'), finish(), done())]);
      const body = { message: 'the same question', format: 'markdown' };
      const one = await openStream(chat.url, body);
      const two = await openStream(chat.url, body);
      assert.match(String(two.headers['cache-status']), /collapsed/);
      await one.until('content');
      assert.equal((await stop(chat, idsOf(one).id)).stopped, true);
      const end = (await one.rest()).at(-1);
      assert.deepEqual([end?.data.finish_reason, end?.data.length], ['cancelled', 7]);
      gate.open();
      const events = await two.rest();
      assert.equal(checkStream(events).data.finish_reason, 'stop');
      assert.equal(joined(events), 'shared to the end');
      assert.equal(chat.upstream.requests.length, number);
      assert.equal(chat.upstream.requests[number - 1]?.closed, false);
      for (const [reader, content, status] of [
        [one, 'shared ', 'cancelled'],
        [two, 'shared to the end', 'complete'],
      ] as const) {
        const row = (await chat.rows(idsOf(reader).conversation))[1];
        assert.deepEqual([row?.content, row?.status], [content, status]);
      }
    });

    it('is not cached', async () => {
      const { reader, id } = await silentAfter(chat, WORDS, { message: 'cached?', cache: true });
      await stop(chat, id);
      await reader.rest();
      const next = await chat.ask({ message: 'cached?' });
      assert.deepEqual([next.response, next.cached], ['echo: cached?', false]);
    });

    it('restores nothing when the conversation was deleted', async () => {
      const { reader, id, conversation, number } = await silentAfter(chat, WORDS);
      const asked = performance.now();
      assert.equal((await chat.call('DELETE', `/api/conversations/${conversation}`)).status, 200);
      const end = (await reader.rest()).at(-1);
      // By the one who deletes, not only by the next checkpoint, which would find it out too.
      assert(performance.now() - asked < 800);
      assert.deepEqual([end?.type, end?.data.code], ['error', 'conversation_not_found']);
      await chat.upstream.waitForClosed(number);
      problemOf(await chat.call('DELETE', `/api/chat-stream/${id}`), 404, 'stream_not_found');
      assert.deepEqual(await chat.rows(conversation), []);
    });

    it('is 404 for questions and unknown ids, and 400 for malformed ids', async () => {
      const { conversation_id } = await chat.ask({ message: 'mine' });
      const [question] = await chat.rows(conversation_id);
      for (const id of [question?.uid, conversation_id, crypto.randomUUID()]) {
        problemOf(await chat.call('DELETE', `/api/chat-stream/${id}`), 404, 'stream_not_found');
      }
      for (const id of ['x', `${question?.uid}:5`, `${question?.uid}0`]) {
        problemOf(await chat.call('DELETE', `/api/chat-stream/${id}`), 400, 'validation');
      }
      assert.equal((await chat.rows(conversation_id)).length, 2);
    });

    it('accepts an id in upper case', async () => {
      const { reader, id } = await silentAfter(chat, WORDS);
      const report = await stop(chat, id.toUpperCase());
      assert.deepEqual([report.stream_id, report.stopped], [id, true]);
      await reader.rest();
    });
  });

  describe(`a reply is stopped through another server, on ${place.name},`, () => {
    let pair: Pair;
    before(async () => {
      pair = await startPair(place, { SSE_OPEN_MS: '600000' });
    });
    after(() => pair.stop());

    it('soon, with all the text that its readers got', async () => {
      const { a, b } = pair;
      const { reader, events, number, id, conversation } = await silentAfter(a, WORDS);
      const follower = await resumeStream(b.url, id);
      const asked = performance.now();
      assert.deepEqual(await stop(b, id), {
        stream_id: id,
        conversation_id: conversation,
        stopped: true,
        status: 'cancelled',
      });
      events.push(...(await reader.rest()));
      await a.upstream.waitForClosed(number);
      const took = performance.now() - asked;
      // Within about a second; the model server is silent for longer than any test.
      assert(took < 10_000, `${took} ms`);
      const end = checkStream(events);
      assert.deepEqual(
        [end.type, end.data.finish_reason, end.data.length],
        ['done', 'cancelled', SAID.length],
      );
      const row = (await b.rows(conversation))[1];
      assert.deepEqual([row?.content, row?.status], [joined(events), 'cancelled']);
      // A reader there may get the last event before the last text, and can still resume.
      const followed = await follower.rest();
      const last = checkStream(followed);
      assert.equal(last.data.finish_reason, 'cancelled');
      assert(SAID.startsWith(joined(followed)));
      const more = await resumeStream(b.url, id, { lastEventId: last.id });
      const rest = more.status === 204 ? [] : await more.rest();
      assert.equal(joined(followed) + joined(rest), SAID);
      const again = await stop(b, id);
      assert.deepEqual([again.stopped, again.status], [false, 'cancelled']);
    });

    it('before its first token too, and while the model keeps sending', async () => {
      const { a, b } = pair;
      const conversation = crypto.randomUUID();
      const number = a.upstream.requests.length + 1;
      a.upstream.respond([hang()]);
      const opening = openStream(a.url, { message: 'silent', conversation_id: conversation });
      const row = await until('the row of the reply', async () => (await b.rows(conversation))[1]);
      assert.equal((await stop(b, row.uid)).stopped, true);
      const events = await (await opening).rest();
      assert.equal(checkStream(events).data.finish_reason, 'cancelled');
      await a.upstream.waitForClosed(number);
      const talk = Array.from({ length: 500 }, (_, n) => [wait(5), delta(`${n} `)]).flat();
      a.upstream.respond([script(...talk, silence())]);
      const talking = await openStream(a.url, { message: 'talks', format: 'markdown', cache: false });
      const { id, conversation: other } = idsOf(talking);
      assert.equal((await stop(b, id)).stopped, true);
      const told = await talking.rest();
      assert.equal(checkStream(told).data.finish_reason, 'cancelled');
      await a.upstream.waitForClosed(number + 1);
      const stored = (await b.rows(other))[1];
      assert.deepEqual([stored?.content, stored?.status], [joined(told), 'cancelled']);
    });

    it('and a running JSON reply there ends as cancelled', async () => {
      const { a, b } = pair;
      const conversation = crypto.randomUUID();
      a.upstream.respond([hang()]);
      const asking = a.ask({ message: 'whole', conversation_id: conversation });
      const row = await until('the row of the reply', async () => (await b.rows(conversation))[1]);
      assert.equal((await stop(b, row.uid)).stopped, true);
      assert.equal((await asking).finish_reason, 'cancelled');
    });
  });
}
