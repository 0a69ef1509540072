import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fork } from '../../src/domain/conversations/forks.ts';
import { eachDatabase } from '../support/databases.ts';
import { NOON, newId, replyTo, startOf, userMessage } from './fixtures.ts';

const VISIBLE = { newestFirst: false, superseded: true };

eachDatabase((_name, open) => {
  /** A conversation of so many turns; long ones have 40,000 characters. */
  async function sourceOf(turns: number, long = false) {
    const database = open();
    const id = newId();
    await database.conversations.create(
      { id, owner: 'alice', createdAt: NOON, lastActive: NOON, pinned: true },
      { title: 'Mine', system: 'Be brief', model: 'some', metadata: { a: 'b' }, pinned: true },
    );
    for (let n = 1; n <= turns; n++) {
      const question = userMessage(id, { content: long ? `q${n} ${'長'.repeat(40_000)}` : `q${n}` });
      const reply = replyTo(question, { content: `a${n}`, reasoning: 'why' });
      await database.writer.write({ start: startOf(question), reply });
    }
    const source = await database.conversations.find(id);
    assert.ok(source);
    const messages = await database.conversations.messages(
      source,
      0,
      1000,
      Number.POSITIVE_INFINITY,
      VISIBLE,
    );
    const fork = (over: Partial<Fork> = {}): Fork => ({
      source,
      id: newId(),
      until: null,
      title: null,
      at: NOON + 1000,
      ...over,
    });
    return { ...database, source, messages: messages.messages, fork };
  }

  async function copyOf({ conversations }: ReturnType<typeof open>, id: string) {
    const copy = await conversations.find(id);
    if (!copy) return null;
    const { messages } = await conversations.messages(copy, 0, 1000, Number.POSITIVE_INFINITY, VISIBLE);
    return { copy, messages };
  }

  test('a fork has copies of the messages with new ids, and the settings', async () => {
    for (const [turns, long, until] of [
      [0, false, null],
      [3, false, null],
      [3, false, 2],
      [120, false, null],
      [12, true, null],
    ] as const) {
      const source = await sourceOf(turns, long);
      const last = until === null ? null : (source.messages[until]?.seq ?? null);
      const wanted = source.fork({ until: last });
      assert.equal(await source.forks.fork(wanted), 'forked');
      const found = await copyOf(open(), wanted.id);
      assert.ok(found);
      assert.deepEqual(found.copy, {
        ...source.source,
        id: wanted.id,
        epoch: 0,
        createdAt: NOON + 1000,
        lastActive: NOON + 1000,
        pinned: false,
      });
      const copied = source.messages.slice(0, until === null ? undefined : until + 1);
      const plain = ({ uid: _u, seq: _s, replyTo: _r, conversationId: _c, ...rest }: (typeof copied)[0]) =>
        rest;
      assert.deepEqual(found.messages.map(plain), copied.map(plain));
      const ids = new Map(copied.map(({ uid }, at) => [uid, found.messages[at]?.uid]));
      for (const [at, { uid, replyTo }] of found.messages.entries()) {
        assert.match(uid, /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
        assert.notEqual(uid, copied[at]?.uid);
        assert.equal(replyTo, copied[at]?.replyTo ? ids.get(copied[at].replyTo) : null);
      }
      const deletions = await source.knex('deletions').where({ conversation_id: wanted.id });
      assert.deepEqual(deletions, []);
    }
  });

  test('a fork has no superseded messages, and can be continued and forked', async () => {
    const source = await sourceOf(1);
    const [question] = source.messages;
    assert.ok(question);
    const reply = replyTo(question, {
      ...{ content: '', status: 'streaming', finishReason: null, usage: null },
      details: { supersedes: question.uid },
    });
    const worker = newId();
    const by = { owner: 'alice', unrestricted: false };
    await source.writer.write({ revision: { by, expiredBefore: 0, message: undefined }, reply, worker });
    const before = source.fork();
    assert.equal(await source.forks.fork(before), 'forked');
    await source.writer.write({
      reply: { ...reply, content: 'new', status: 'complete', finishReason: 'stop' },
      worker,
    });
    const after = source.fork({ title: 'Other' });
    assert.equal(await source.forks.fork(after), 'forked');
    const said = async (id: string) => (await copyOf(source, id))?.messages.map(({ content }) => content);
    assert.deepEqual(await said(before.id), ['q1', 'a1']);
    assert.deepEqual(await said(after.id), ['q1', 'new']);
    const next = userMessage(after.id, { content: 'next' });
    assert.equal(await source.writer.write({ start: startOf(next, { by }) }), 'saved');
    const copy = await source.conversations.find(after.id);
    assert.ok(copy);
    assert.equal(copy.settings.title, 'Other');
    const again = source.fork({ source: copy });
    assert.equal(await source.forks.fork(again), 'forked');
    assert.deepEqual(await said(again.id), ['q1', 'new', 'next']);
  });

  test('nothing is left of a fork of a reply that is streaming, or of a source that changed', async () => {
    const source = await sourceOf(1);
    const { id: conversationId } = source.source;
    const question = userMessage(conversationId);
    const reply = replyTo(question, {
      content: 'half',
      status: 'streaming',
      finishReason: null,
      usage: null,
    });
    await source.writer.write({ start: startOf(question), reply, worker: newId() });
    const all = source.fork();
    assert.equal(await source.forks.fork(all), 'streaming');
    const until = source.fork({ until: source.messages[1]?.seq ?? 0 });
    assert.equal(await source.forks.fork(until), 'forked');
    const changed = source.fork({ source: { ...source.source, epoch: 7 }, until: 1 });
    assert.equal(await source.forks.fork(changed), 'changed');
    for (const { id } of [all, changed]) {
      assert.equal(await copyOf(source, id), null);
      for (const table of ['conversations', 'messages', 'deletions'] as const) {
        const column = table === 'conversations' ? 'id' : 'conversation_id';
        assert.deepEqual(await source.knex(table).where(column, id), [], table);
      }
    }
  });

  test('the rows of a fork whose process died are invisible, and are removed', async () => {
    const source = await sourceOf(2);
    const { knex, purge } = source;
    const wanted = source.fork();
    assert.equal(await source.forks.fork(wanted), 'forked');
    const { id } = wanted;
    // As it is stored while it is written.
    const at = '2024-03-21 12:00:01.123';
    await knex('conversations').where({ id }).update({ epoch: 1, deleted_at: at });
    await knex('deletions').insert({ conversation_id: id, deleted_at: at, renewed: 0, pending: 2 });
    assert.equal(await copyOf(source, id), null);
    for (const [now, left] of [
      [NOON + 300_000, 4],
      [NOON + 3_600_000, 0],
    ] as const) {
      await purge.abandonUnfinished(now);
      await purge.remove(await purge.pendingDeletions(0, 10), {});
      const rows = await knex('messages').where({ conversation_id: id });
      assert.equal(rows.length, left);
    }
    assert.deepEqual(await knex('conversations').where({ id }), []);
  });

  test('a hundred forks at the same time', async () => {
    const source = await sourceOf(5);
    const forks = Array.from({ length: 100 }, () => source.fork());
    const outcomes = await Promise.all(forks.map((fork) => source.forks.fork(fork)));
    assert.ok(outcomes.every((outcome) => outcome === 'forked'));
    for (const { id } of forks) assert.equal((await copyOf(source, id))?.messages.length, 10);
  });
});
