/** A server with a `max_allowed_packet` of 256 KiB: see docs/deployment.md. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import mysql from 'mysql2/promise';
import { pino } from 'pino';
import { type Database, openDatabase } from '../../src/db/database.ts';
import { Journal } from '../../src/db/journal/journal.ts';
import { DurableWriter } from '../../src/db/turns/durable-writer.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { problemOf, startChat } from '../support/chat-server.ts';
import { optionsFor } from '../support/databases.ts';
import { delta, done, finish, reply, role, script } from '../support/fake-upstream.ts';
import { findMariadbd, type Mariadb, startMariadb } from '../support/mariadb.ts';
import { contents, messagesOf, newId, replyTo, startOf, userMessage } from './fixtures.ts';

const PACKET = 262_144;
const WORKER = newId();

/** Each character takes the most bytes: in UTF-8, as an escape, and as a pair that must not be split. */
function textOf(bytes: number): string {
  return `您a'\\😀"\n`.repeat(Math.floor(bytes / 12));
}

describe('with a small max_allowed_packet', { skip: findMariadbd() === undefined }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'chat-packets-'));
  const warnings: string[] = [];
  const logger = pino({ level: 'warn' }, { write: (line) => warnings.push(JSON.parse(line).msg) });
  let server: Mariadb;
  let url: string;
  let database: Database;
  const limitPackets = async () => {
    const connection = await mysql.createConnection(server.url);
    await connection.query(`SET GLOBAL max_allowed_packet = ${PACKET}`);
    await connection.query('CREATE DATABASE IF NOT EXISTS chat');
    await connection.end();
  };

  before(async () => {
    server = await startMariadb();
    await limitPackets();
    url = `${server.url}/chat`;
    database = openDatabase({ ...optionsFor({ kind: 'mysql', url }), textMaxBytes: PACKET }, logger);
    await database.migrate();
  });
  after(async () => {
    await database.close();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const streamingTurn = () => {
    const question = userMessage(newId());
    return {
      question,
      reply: replyTo(question, { content: '', status: 'streaming', finishReason: null, usage: null }),
    };
  };
  const stored = async ({ conversationId }: Message) =>
    (await messagesOf(database.conversations, conversationId, 0, 10))[1];

  test('25 replies with 50 KB of new text each are saved, without a failed batch', async () => {
    const turns = Array.from({ length: 25 }, streamingTurn);
    const text = textOf(50_000);
    await Promise.all(
      turns.map(({ question, reply: one }) =>
        database.writer.write({ start: startOf(question), reply: one, worker: WORKER }),
      ),
    );
    const half = text.length / 2;
    const save = ({ reply: { uid } }: (typeof turns)[0]) =>
      database.writer.progress({
        uid,
        worker: WORKER,
        reasoningAfter: () => '',
        after: (length) => text.slice(length, half),
      });
    for (let left = turns; left.length > 0; ) {
      const outcomes = await Promise.allSettled(left.map(save));
      left = left.filter((_, n) => outcomes[n]?.status === 'rejected');
    }
    const saved = await database.knex('messages').where({ content: text.slice(0, half), length: half });
    assert.equal(saved.length, 25);
    await Promise.all(
      turns.map(async ({ question, reply: one }) => {
        const end = replyTo(question, { uid: one.uid, content: text });
        assert.equal(await database.writer.write({ reply: end, worker: WORKER }), 'saved');
        assert.equal((await stored(question))?.content, text);
      }),
    );
    assert.deepEqual(warnings, []);
  });

  test('a journal with 25 replies of 50 KB is replayed after an outage', async () => {
    const journal = new Journal(join(folder, 'journal.sqlite'), 1e9);
    const writer = new DurableWriter(database.writer, journal, logger, { retryMs: 60_000 });
    await server.kill();
    const text = textOf(50_000);
    const questions = Array.from({ length: 25 }, () => userMessage(newId(), { content: textOf(8000) }));
    for (const question of questions) {
      const unit = { start: startOf(question), reply: replyTo(question, { content: text }) };
      assert.equal(await writer.write(unit), 'journalled');
    }
    await server.start();
    await limitPackets();
    await writer.flush(20_000);
    for (const question of questions) {
      assert.deepEqual(await contents(database.conversations, question.conversationId), [
        question.content,
        text,
      ]);
    }
    await writer.close();
    assert.deepEqual(
      warnings.splice(0).filter((line) => !/connection error/i.test(line)),
      ['database unavailable, journaling'],
    );
  });

  test('a text of the length of a packet is stored in parts, once', async () => {
    const text = textOf(PACKET);
    const whole = userMessage(newId(), { content: text });
    const unit = { start: startOf(whole), reply: replyTo(whole, { content: text }) };
    await database.writer.write(unit);
    await database.writer.write(unit);
    const turn = streamingTurn();
    const { uid } = turn.reply;
    await database.writer.write({ start: startOf(turn.question), reply: turn.reply, worker: WORKER });
    for (const length of [text.length / 2, text.length - 6, text.length]) {
      const progress = {
        uid,
        worker: WORKER,
        reasoningAfter: () => '',
        after: (from: number) => text.slice(from, length),
      };
      assert.equal(await database.writer.progress(progress), 'saved');
      assert.equal((await stored(turn.question))?.content, text.slice(0, length));
    }
    await database.writer.write({
      reply: replyTo(turn.question, { uid, content: `${text}.` }),
      worker: WORKER,
    });
    for (const { conversationId } of [whole, turn.question]) {
      const [, { content, status } = whole] = await messagesOf(database.conversations, conversationId, 0, 10);
      assert.deepEqual([content.slice(0, text.length) === text, status], [true, 'complete']);
    }
    assert.equal((await contents(database.conversations, whole.conversationId))[0], text);
    assert.deepEqual(warnings, []);
  });

  test('reasoning of the length of a packet is stored in parts, and longer reasoning as far as it fits', async () => {
    for (const [bytes, status] of [
      [PACKET, 'complete'],
      [500_000, 'incomplete'],
    ] as const) {
      const reasoning = textOf(bytes);
      const whole = userMessage(newId());
      await database.writer.write({ start: startOf(whole), reply: replyTo(whole, { reasoning }) });
      const turn = streamingTurn();
      const { uid } = turn.reply;
      await database.writer.write({ start: startOf(turn.question), reply: turn.reply, worker: WORKER });
      const progress = {
        uid,
        worker: WORKER,
        after: () => '',
        reasoningAfter: (from: number) => reasoning.slice(from),
      };
      assert.equal(await database.writer.progress(progress), 'saved');
      const end = replyTo(turn.question, { uid, reasoning });
      await database.writer.write({ reply: end, worker: WORKER });
      for (const question of [whole, turn.question]) {
        const reply = await stored(question);
        const kept = reply?.reasoning ?? '';
        assert.deepEqual(
          [reply?.status, reasoning.startsWith(kept), reply?.content],
          [status, true, 'an answer'],
        );
        assert.equal(kept === reasoning, status === 'complete');
        assert(Buffer.byteLength(kept) > PACKET - 12, `${Buffer.byteLength(kept)} bytes`);
      }
    }
    assert.deepEqual(warnings, []);
  });

  test('a longer reply is stored as far as it fits, as incomplete; a longer message is refused', async () => {
    const question = userMessage(newId());
    const content = textOf(500_000);
    assert.equal(
      await database.writer.write({ start: startOf(question), reply: replyTo(question, { content }) }),
      'saved',
    );
    const { content: kept = '', status, finishReason } = (await stored(question)) ?? {};
    assert.deepEqual([content.startsWith(kept), status, finishReason], [true, 'incomplete', 'length']);
    assert(Buffer.byteLength(kept) > PACKET - 4, `${Buffer.byteLength(kept)} bytes`);
    const long = userMessage(newId(), { content });
    await assert.rejects(database.writer.write({ start: startOf(long) }), { code: 'body_too_large' });
    assert.equal(await database.conversations.find(long.conversationId), null);
  });

  const call = (args: string) => ({
    id: 'c',
    type: 'function' as const,
    function: { name: 'f', arguments: args },
  });

  test('calls of the length of a packet are stored in parts, longer ones not at all', async () => {
    for (const [bytes, status] of [
      [PACKET * 0.7, 'complete'],
      [500_000, 'incomplete'],
    ] as const) {
      const tool_calls = [call(textOf(bytes)), call('{}')];
      const details = { wants_reasoning: true } as const;
      const more = {
        details: { ...details, tool_calls },
        finishReason: 'tool_calls' as const,
      };
      const whole = userMessage(newId());
      const unit = { start: startOf(whole), reply: replyTo(whole, more) };
      await database.writer.write(unit);
      await database.writer.write(unit);
      const turn = streamingTurn();
      const started = { ...turn.reply, details };
      await database.writer.write({ start: startOf(turn.question), reply: started, worker: WORKER });
      const end = replyTo(turn.question, { uid: turn.reply.uid, ...more });
      await database.writer.write({ reply: end, worker: WORKER });
      for (const question of [whole, turn.question]) {
        const kept = await stored(question);
        assert.equal(kept?.status, status);
        const isWhole = status === 'complete';
        assert.equal(kept?.finishReason, isWhole ? 'tool_calls' : 'length');
        assert.deepEqual(kept?.details, isWhole ? more.details : details);
      }
    }
    assert.deepEqual(warnings, []);
  });

  test('images of the length of a packet are stored in parts, longer ones refused; others of the batch are not', async () => {
    const parts = (chars: number) => ({
      details: { parts: [{ type: 'image_url' as const, image_url: { url: 'A'.repeat(chars) } }] },
    });
    const [fits, long, other] = [PACKET - 100, PACKET, 10].map((chars) => userMessage(newId(), parts(chars)));
    assert(fits && long && other);
    const written = await Promise.allSettled(
      [fits, long, other].map((question) =>
        database.writer.write({ start: startOf(question), reply: replyTo(question) }),
      ),
    );
    assert.deepEqual(
      written.map((one) => (one.status === 'rejected' ? one.reason.code : one.value)),
      ['saved', 'body_too_large', 'saved'],
    );
    warnings.splice(0);
    for (const question of [fits, other]) {
      const [kept] = await messagesOf(database.conversations, question.conversationId, 0, 1);
      assert.deepEqual(kept?.details, question.details);
    }
    assert.equal(await database.conversations.find(long.conversationId), null);
  });

  test('three images of 4 MiB are stored and read with max_allowed_packet of 64 MiB', async (t) => {
    const connection = await mysql.createConnection(server.url);
    await connection.query('SET GLOBAL max_allowed_packet = 67108864');
    t.after(async () => {
      await connection.query(`SET GLOBAL max_allowed_packet = ${PACKET}`);
      await connection.end();
    });
    const chat = await startChat({ DATABASE_URL: url });
    t.after(() => chat.stop());
    const data = Buffer.alloc(4 * 1024 * 1024, 0xfb);
    Buffer.from('89504e470d0a1a0a', 'hex').copy(data);
    const image_url = { url: `data:image/png;base64,${data.toString('base64')}` };
    // More than a MEDIUMTEXT holds.
    const message = Array.from({ length: 3 }, () => ({ type: 'image_url', image_url }));
    const { conversation_id: id, persisted } = await chat.ask({ message });
    assert.equal(persisted, true);
    await chat.ask({ message: 'again', conversation_id: id });
    const sent = JSON.stringify(chat.upstream.requests.at(-1)?.sentMessages);
    assert(sent.startsWith(`[{"role":"user","content":${JSON.stringify(message)}}`));
  });

  test('the start warns once; a reply of 500 KB ends with length for its caller too', async (t) => {
    const chat = await startChat({
      DATABASE_URL: url,
      SSE_OPEN_MS: '0',
      BODY_LIMIT: '8mb',
      MESSAGE_MAX_CHARS: '500000',
    });
    t.after(() => chat.stop());
    const warned = chat.server.lines.filter(({ msg }) => /max_allowed_packet/.test(String(msg)));
    assert.equal(warned.length, 1);
    assert.equal(warned[0]?.max_allowed_packet, PACKET);
    const text = 'x'.repeat(500_000);
    const kept = text.slice(0, PACKET);
    chat.upstream.respond((exchange) =>
      exchange.request.body.stream
        ? script(role(), delta(text), finish(), done())(exchange)
        : reply(text)(exchange),
    );
    const whole = await chat.ask({ message: 'whole' });
    assert.deepEqual([whole.response === kept, whole.finish_reason], [true, 'length']);
    const streamed = await chat.call('POST', '/api/chat-stream', { message: 'streamed' });
    assert.match(streamed.text, /"finish_reason":"length"/);
    const id = String(streamed.headers['x-conversation-id']);
    for (const conversation of [whole.conversation_id, id]) {
      const [, row] = await chat.rows(conversation);
      assert.deepEqual([row?.content === kept, row?.status], [true, 'incomplete']);
    }
    const long = await chat.call('POST', '/api/chat-stream', { message: 'y'.repeat(400_000) });
    problemOf(long, 413, 'body_too_large');
  });
});
