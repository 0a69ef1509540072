import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ExportScope } from '../../../../src/domain/exports.ts';
import type { ArchiveBatch, PurgeStore } from '../../../../src/domain/purge.ts';
import { Retention } from '../../../../src/domain/retention.ts';
import { PurgeService } from '../../../../src/services/conversations/purge.ts';
import { PurgeArchiver } from '../../../../src/services/exports/purge-archiver.ts';
import { silentLog } from '../../../support/fakes.ts';

const DAY = 86_400_000;
const NOW = Date.UTC(2026, 2, 21);

function setUp(rows: number, options: { ttlMs?: number; busy?: boolean } = {}) {
  const calls: { cutoff: number; limit: number }[] = [];
  const forgotten: number[] = [];
  let left = rows;
  const store: PurgeStore = {
    countExpired: () => Promise.resolve({ conversations: left, messages: left * 2 }),
    deleteExpired: (cutoff, limit) => {
      calls.push({ cutoff, limit });
      const conversations = Math.min(limit, left);
      left -= conversations;
      return Promise.resolve({ conversations, messages: conversations * 2 });
    },
    forgetDeletions: (before) => {
      forgotten.push(before);
      return Promise.resolve(forgotten.length < 3 ? 1000 : 0);
    },
    async exclusively(work) {
      if (options.busy) return false;
      await work();
      return true;
    },
  };
  const purge = new PurgeService(store, { now: () => NOW }, new Retention(options.ttlMs ?? DAY), silentLog);
  return { purge, store, calls, forgotten, left: () => left };
}

describe('a purge', () => {
  it('goes on in small batches until nothing is left', async () => {
    const { purge, calls, left } = setUp(450);
    const report = await purge.run(new AbortController().signal);
    assert.deepEqual(report, { conversations: 450, messages: 900, outcome: 'done' });
    assert.equal(left(), 0);
    assert.ok(calls.length >= 3 && calls.every(({ cutoff, limit }) => cutoff === NOW - DAY && limit <= 500));
  });

  it('forgets in the end what was deleted more than a month ago', async () => {
    const { purge, forgotten } = setUp(0);
    await purge.run(new AbortController().signal);
    assert.deepEqual(forgotten, Array(3).fill(NOW - 31 * DAY));
  });

  it('stops between two batches when it is told to', async () => {
    const { purge, store, left } = setUp(1000);
    const abort = new AbortController();
    const deleteExpired = store.deleteExpired;
    store.deleteExpired = (cutoff, limit) => {
      abort.abort();
      return deleteExpired(cutoff, limit);
    };
    assert.equal((await purge.run(abort.signal)).outcome, 'stopped');
    assert.ok(left() > 0);
  });

  it('purges nothing when what it is to purge cannot be archived, and tries again the next time', async () => {
    const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
    let space = false;
    const kept: string[] = [];
    const archive = {
      async append(_at: number, { lines }: ArchiveBatch) {
        if (!space) throw full;
        for await (const text of lines) kept.push(text);
      },
    };
    const source = {
      async *read({ conversationId }: ExportScope) {
        const time = '2026-03-20T00:00:00.000Z';
        const conversation = { id: String(conversationId), createdAt: time, lastActive: time };
        yield [{ conversation, messages: [], begins: true, ends: true }];
      },
    };
    const clock = { now: () => NOW };
    const archiver = new PurgeArchiver(source, archive, clock, new Retention(DAY));
    const { store, left } = setUp(5);
    const deleteExpired = store.deleteExpired;
    store.deleteExpired = async (cutoff, limit, keep) => {
      if (left() > 0) await keep?.(['one', 'two']);
      return deleteExpired(cutoff, limit);
    };
    const purge = new PurgeService(store, clock, new Retention(DAY), silentLog, archiver);
    await assert.rejects(purge.run(new AbortController().signal), full);
    assert.equal(left(), 5);
    space = true;
    assert.equal((await purge.run(new AbortController().signal)).outcome, 'done');
    assert.equal(left(), 0);
    const lines = kept.join('').trimEnd().split('\n');
    assert.deepEqual(
      lines.map((line) => JSON.parse(line).conversation_id),
      ['one', 'two'],
    );
  });

  it('leaves the work to another process that is at it', async () => {
    const { purge, calls } = setUp(5, { busy: true });
    assert.equal((await purge.run(new AbortController().signal)).outcome, 'busy');
    assert.equal(calls.length, 0);
  });

  it('touches nothing while conversations are kept for ever', async () => {
    const { purge, calls } = setUp(5, { ttlMs: 0 });
    assert.equal((await purge.run(new AbortController().signal)).outcome, 'off');
    assert.deepEqual(await purge.preview(), { conversations: 0, messages: 0 });
    assert.equal(calls.length, 0);
  });

  it('can be tried dry', async () => {
    const { purge, calls } = setUp(5);
    assert.deepEqual(await purge.preview(), { conversations: 5, messages: 10 });
    assert.equal(calls.length, 0);
  });
});
