import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import type { Database } from '../../src/db/database.ts';
import { KnexExportSource } from '../../src/db/exports/reader.ts';
import { removeDeleted } from '../../src/db/repositories/deletions.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { TurnStart } from '../../src/domain/chat/turns.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { eachDatabase } from '../support/databases.ts';
import { contents, fillConversation, HOUR, NOON, newId, replyTo, startOf, userMessage } from './fixtures.ts';

const NOTHING_YET = { isStopped: () => true };

eachDatabase((_name, open) => {
  async function hide(database: Database, id: string) {
    const deletions = await database.purge.hide([id], Date.now());
    assert.equal(deletions.length, 1);
    return deletions;
  }

  async function rows(
    { knex }: Database,
    table: 'messages' | 'conversations' | 'idempotency_keys',
    id: string,
  ) {
    const column = table === 'conversations' ? 'id' : 'conversation_id';
    const [row] = await knex(table).where(column, id).count({ count: '*' });
    return Number(row?.count);
  }

  const later = (id: string, over: Partial<Message> = {}) =>
    userMessage(id, { timestamp: NOON + 100 * HOUR, content: 'a new message', ...over });

  /** A turn with a key. */
  function keyed(question: Message, id: string, over: Partial<TurnStart> = {}) {
    const reply = replyTo(question, { status: 'streaming', content: '', finishReason: null, usage: null });
    const key = { id, bodyHash: id, cached: false, replaces: null, expiredBefore: 0 };
    return { start: startOf(question, over), reply, worker: newId(), key };
  }

  async function exported({ knex }: Database, id: string): Promise<string[]> {
    const source = new KnexExportSource(knex);
    const filter = { owner: null, from: null, to: null, role: null, status: null };
    const found: string[] = [];
    for await (const { parts } of source.read(await source.scope(filter, id, 0))) {
      for (const { messages } of parts) found.push(...messages.map(({ content }) => content));
    }
    return found;
  }

  describe('a hidden conversation whose rows are still stored', () => {
    test('is not there for any reader', async () => {
      const database = open();
      const { conversations, replies, writer, purge } = database;
      const question = userMessage(newId());
      const { conversationId } = question;
      const keyId = randomBytes(32).toString('hex');
      const turn = keyed(question, keyId);
      await writer.write(turn);
      await writer.write({
        reply: { ...turn.reply, status: 'complete', content: 'old', finishReason: 'stop' },
      });
      await hide(database, conversationId);
      assert.equal(await rows(database, 'messages', conversationId), 2);
      assert.equal(await conversations.find(conversationId), null);
      assert.deepEqual(await contents(conversations, conversationId), []);
      assert.deepEqual((await conversations.context(conversationId, UNRESTRICTED, 10, 0)).messages, []);
      const listed = await conversations.list(UNRESTRICTED, 1000, null, 0);
      assert.ok(listed.every(({ id }) => id !== conversationId));
      assert.equal(await conversations.delete(conversationId, UNRESTRICTED), false);
      assert.equal(await replies.find(turn.reply.uid), null);
      assert.equal(await replies.tail(turn.reply.uid, { content: 0, reasoning: 0 }), null);
      assert.equal(await replies.cancel(turn.reply.uid), false);
      assert.equal(await replies.key(keyId, 0), null);
      assert.deepEqual(await exported(database, conversationId), []);
      const candidates = await purge.candidates(Date.now(), null, 1000);
      assert.ok(candidates.every(({ id }) => id !== conversationId));
      const progress = {
        uid: turn.reply.uid,
        worker: turn.worker,
        reasoningAfter: () => '',
        after: () => 'more',
      };
      assert.equal(await writer.progress(progress), 'gone');
      assert.equal(await writer.write({ reply: replyTo(question) }), 'gone');
      await purge.remove(await purge.pendingDeletions(0, 10), {});
      assert.equal(await rows(database, 'conversations', conversationId), 0);
    });

    test('shows only new messages when its id is used again, and keeps them when the old rows go', async () => {
      const database = open();
      const { conversations, replies, writer, knex } = database;
      const question = userMessage(newId());
      const { conversationId } = question;
      const keyId = randomBytes(32).toString('hex');
      const old = keyed(question, keyId, { by: { owner: 'alice', unrestricted: false } });
      await writer.write(old);
      const deletions = await hide2(database, conversationId);
      const bob = { owner: 'bob', unrestricted: false };
      const next = keyed(later(conversationId), keyId, { by: bob });
      assert.equal(await writer.write(next), 'saved');
      const seen = async () => {
        assert.deepEqual(await contents(conversations, conversationId), ['a new message', '']);
        assert.deepEqual(await exported(database, conversationId), ['a new message']);
        assert.equal((await conversations.find(conversationId))?.owner, 'bob');
        assert.equal((await conversations.find(conversationId))?.createdAt, NOON + 100 * HOUR);
        assert.equal(await replies.find(old.reply.uid), null);
        assert.equal((await replies.key(keyId, 0))?.replyId, next.reply.uid);
      };
      await seen();
      assert.equal(await removeDeleted(knex, deletions, {}), true);
      await seen();
      assert.equal(await rows(database, 'messages', conversationId), 2);
      assert.equal(await rows(database, 'idempotency_keys', conversationId), 1);
      assert.deepEqual(await database.purge.pendingDeletions(0, 10), []);
    });

    async function hide2(database: Database, id: string) {
      const deletions = await database.purge.hide([id], Date.now());
      if (deletions.length > 0) return deletions;
      // A reply is streaming, which only a caller's deletion ignores.
      await database
        .knex('messages')
        .where({ conversation_id: id })
        .update({ status: 'complete', worker: null });
      return hide(database, id);
    }

    test('is removed by another process when the first one ends early', async () => {
      const database = open();
      const id = newId();
      await fillConversation(database.knex, id, 300);
      const deletions = await hide(database, id);
      assert.equal(await removeDeleted(database.knex, deletions, NOTHING_YET), false);
      let slices = 0;
      const isStopped = () => {
        slices += 1;
        return slices > 2;
      };
      assert.equal(await removeDeleted(database.knex, deletions, { isStopped }), false);
      assert.ok((await rows(database, 'messages', id)) < 300);
      assert.equal(await database.conversations.find(id), null);
      const left = await database.purge.pendingDeletions(0, 10);
      assert.deepEqual(
        left.map(({ conversationId }) => conversationId),
        [id],
      );
      assert.equal(await open().purge.remove(left, {}), true);
      assert.equal(await rows(database, 'conversations', id), 0);
      assert.equal(await rows(database, 'messages', id), 0);
    });

    test('that was used and deleted again goes with both generations of messages', async () => {
      const database = open();
      const { conversations, writer, purge } = database;
      const id = newId();
      await fillConversation(database.knex, id, 40);
      const first = await hide(database, id);
      await writer.write({ start: startOf(later(id)) });
      await purge.hide([id], Date.now());
      assert.equal(await removeDeleted(database.knex, first, {}), true);
      assert.equal(await conversations.find(id), null);
      await purge.remove(await purge.pendingDeletions(0, 10), {});
      assert.equal(await rows(database, 'conversations', id), 0);
      assert.equal(await rows(database, 'messages', id), 0);
    });
  });
});
