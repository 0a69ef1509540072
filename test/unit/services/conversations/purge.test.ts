import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ArchiveBatch, PurgeStore } from '../../../../src/domain/conversations/purge.ts';
import { Retention } from '../../../../src/domain/conversations/retention.ts';
import { type ExportScope, pageOf } from '../../../../src/domain/exports/exports.ts';
import { PurgeService } from '../../../../src/services/conversations/purge.ts';
import { PurgeArchiver } from '../../../../src/services/exports/purge-archiver.ts';
import { silentLog } from '../../../support/fakes.ts';

const DAY = 86_400_000;
const NOW = Date.UTC(2026, 2, 21);

interface Options {
  readonly ttlMs?: number;
  readonly busy?: boolean;
  readonly archiver?: Pick<PurgeArchiver, 'append'>;
}

function setUp(rows: number, { ttlMs = DAY, busy = false, archiver }: Options = {}) {
  const calls: string[] = [];
  const batches: number[] = [];
  const forgotten: number[] = [];
  let left = rows;
  let hidden = 0;
  const store: PurgeStore = {
    abandonUnfinished: async () => {},
    countExpired: async () => ({ conversations: left, messages: left * 2 }),
    countLeft: async () => left + hidden,
    async candidates(cutoff, after, limit) {
      calls.push('candidates');
      assert.equal(cutoff, NOW - DAY);
      const first = after ? Number(after.id.slice(1)) + 1 : 0;
      const size = Math.min(limit, rows - first);
      return Array.from({ length: size }, (_, n) => ({ id: `c${first + n}`, lastActive: 0 }));
    },
    async versions(ids) {
      calls.push('versions');
      return new Map(ids.map((id) => [id, 'v1']));
    },
    async hide(ids, cutoff, versions) {
      calls.push('hide');
      batches.push(ids.length);
      assert.equal(cutoff, NOW - DAY);
      assert.equal(versions?.size, archiver && ids.length);
      left -= ids.length;
      hidden += ids.length;
      return [];
    },
    async pendingDeletions(after, limit) {
      const size = after === 0 ? Math.min(limit, hidden) : 0;
      return Array.from({ length: size }, (_, n) => ({ seq: n + 1, conversationId: `c${n}`, epoch: 1 }));
    },
    async remove(deletions, { isStopped, onSlice }) {
      for (const _ of deletions) {
        if (isStopped?.()) return false;
        onSlice?.({ conversations: 1, messages: 2 });
        hidden -= 1;
      }
      return true;
    },
    forgetDeletions: async (before) => {
      forgotten.push(before);
      return forgotten.length < 3 ? 1000 : 0;
    },
    exclusively: async (_lock, work) => (busy ? null : work()),
  };
  const purge = new PurgeService(
    store,
    { now: () => NOW },
    new Retention(ttlMs),
    silentLog,
    archiver ?? null,
  );
  return { purge, store, calls, batches, forgotten, left: () => left };
}

describe('a purge', () => {
  it('deletes in batches until nothing is left', async () => {
    const { purge, batches, left } = setUp(450);
    const report = await purge.run(new AbortController().signal);
    assert.deepEqual(report, { conversations: 450, messages: 900, outcome: 'done' });
    assert.equal(left(), 0);
    assert.ok(batches.length >= 3 && batches.every((size) => size <= 500));
  });

  it('removes deletions that are more than a month old', async () => {
    const { purge, forgotten } = setUp(0);
    await purge.run(new AbortController().signal);
    assert.deepEqual(forgotten, Array(3).fill(NOW - 31 * DAY));
  });

  it('stops after a slice when the signal is aborted, and says what is left', async () => {
    const abort = new AbortController();
    const { purge } = setUp(1000);
    const report = await purge.run(abort.signal, ({ conversations }) => {
      if (conversations === 250) abort.abort();
    });
    assert.deepEqual(report, { conversations: 250, messages: 500, left: 750, outcome: 'stopped' });
  });

  it('removes what earlier deletions have left', async () => {
    const { purge, store } = setUp(0, { ttlMs: 0 });
    await store.hide(['c0', 'c1'], NOW - DAY);
    await purge.removeDeleted(new AbortController().signal);
    assert.deepEqual(await store.pendingDeletions(0, 10), []);
  });

  it('deletes nothing that cannot be archived, and retries at the next run', async () => {
    const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
    let space = false;
    const archived: string[] = [];
    const archive = {
      async append(_at: number, { lines }: ArchiveBatch) {
        if (!space) throw full;
        for await (const text of lines) archived.push(text);
      },
    };
    const source = {
      async *read({ conversationId }: ExportScope) {
        const time = '2026-03-20T00:00:00.000Z';
        const conversation = { id: String(conversationId), createdAt: time, lastActive: time };
        yield pageOf([{ conversation, messages: [], begins: true, ends: true }]);
      },
    };
    const archiver = new PurgeArchiver(source, archive, { now: () => NOW }, new Retention(DAY));
    const { purge, left, calls } = setUp(2, { archiver });
    await assert.rejects(purge.run(new AbortController().signal), full);
    assert.equal(left(), 2);
    space = true;
    assert.equal((await purge.run(new AbortController().signal)).outcome, 'done');
    assert.equal(left(), 0);
    const lines = archived.join('').trimEnd().split('\n');
    assert.deepEqual(
      lines.map((line) => JSON.parse(line).conversation_id),
      ['c0', 'c1'],
    );
    // The version is read before the contents, so that a change in between is noticed.
    assert.deepEqual(calls.slice(-4), ['candidates', 'versions', 'hide', 'candidates']);
  });

  it('does nothing while another process purges', async () => {
    const { purge, calls } = setUp(5, { busy: true });
    assert.equal((await purge.run(new AbortController().signal)).outcome, 'busy');
    assert.equal(calls.length, 0);
  });

  it('only forgets deletions when conversations never expire', async () => {
    const { purge, calls, forgotten } = setUp(5, { ttlMs: 0 });
    assert.equal((await purge.run(new AbortController().signal)).outcome, 'off');
    assert.deepEqual(await purge.preview(), { conversations: 0, messages: 0 });
    assert.equal(calls.length, 0);
    assert.equal(forgotten.length, 3);
  });

  it('counts in a dry run and deletes nothing', async () => {
    const { purge, calls } = setUp(5);
    assert.deepEqual(await purge.preview(), { conversations: 5, messages: 10 });
    assert.equal(calls.length, 0);
  });
});
