/** The import service on every database: ticks, imports at the same time, and what a failure leaves. */
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { v7 } from 'uuid';
import type { Database } from '../../src/db/database.ts';
import { Retention } from '../../src/domain/conversations/retention.ts';
import { importEntries } from '../../src/http/request/import-file.ts';
import { type ImportCounts, ImportService } from '../../src/services/imports/imports.ts';
import { eachDatabase } from '../support/databases.ts';
import { ticksDuring } from '../support/ticks.ts';

const AT = '2026-03-21T08:30:00.000Z';
const OPTIONS = { owner: null, pin: false, replace: false, replacesOwner: false };
const TICK_MS = 50;

/** A line of an export. */
function line(messages: number, length: number, id = v7()): string {
  const content = '“字” it’s a text? \\ '.repeat(Math.ceil(length / 18)).slice(0, length);
  const all = Array.from({ length: messages }, (_, at) => {
    const reply = { model: 'm', finish_reason: 'stop', feedback: { rating: 'up', comment: null } };
    return {
      ...{ id: v7(), role: at % 2 === 0 ? 'user' : 'assistant', content, timestamp: AT },
      ...(at % 2 === 1 && reply),
    };
  });
  return JSON.stringify({ conversation_id: id, created_at: AT, last_active: AT, messages: all });
}

async function* blocks(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let from = 0; from < bytes.length; from += 64 * 1024) yield bytes.subarray(from, from + 64 * 1024);
}

eachDatabase((_name, open) => {
  let database: Database;
  let service: ImportService;
  const run = (bytes: Buffer, options: object = {}): Promise<ImportCounts> =>
    service.run(importEntries(blocks(bytes)), { ...OPTIONS, ...options });
  const start = (lines: readonly string[], options: object = {}) =>
    run(Buffer.from(lines.join('\n')), options);

  before(() => {
    database = open();
    service = new ImportService(database.imports, { now: () => Date.now() }, new Retention(0), 2);
  });

  const sizes: [name: string, lines: number, messages: number, length: number][] = [
    ['many conversations', 400, 10, 300],
    // SQLite commits it in one step: 5 MB in about 25 ms.
    ['a long conversation', 1, 2000, 1000],
    ['long messages', 1, 2, 400_000],
  ];
  for (const [what, count, messages, length] of sizes) {
    test(`no tick of an import of ${what} is long`, async (t) => {
      // The time of compilation and of making the file does not count.
      await start(Array.from({ length: 50 }, () => line(10, 100)));
      const longest = async () => {
        const bytes = Buffer.from(Array.from({ length: count }, () => line(messages, length)).join('\n'));
        const ticks = await ticksDuring(async () => {
          const counts = await run(bytes);
          assert.deepEqual([counts.imported, counts.messages], [count, count * messages]);
        });
        return ticks.longest;
      };
      // A long tick of the code is in both; one whose code was compiled anew is not.
      const tick = Math.min(await longest(), await longest());
      t.diagnostic(`${tick.toFixed(0)} ms`);
      assert.ok(tick < TICK_MS, `${tick.toFixed(0)} ms`);
    });
  }

  test('imports at the same time write each conversation once', async () => {
    const lines = Array.from({ length: 200 }, () => line(4, 20));
    const all = await Promise.all([start(lines), start(lines.toReversed()), start(lines)]);
    const sum = (member: 'imported' | 'skipped' | 'failed' | 'messages') =>
      all.reduce((total, counts) => total + counts[member], 0);
    assert.deepEqual([sum('imported'), sum('skipped'), sum('failed')], [200, 400, 0]);
    assert.equal(sum('messages'), 800);
  });

  test('a conversation that fails does not stop those that are written with it', async () => {
    const [first, second, third, last] = Array.from({ length: 4 }, () => line(2, 20));
    assert(first && second && third && last);
    const taken = JSON.parse(first).messages[1].id;
    const bad = { ...JSON.parse(third), messages: [{ ...JSON.parse(third).messages[0], id: taken }] };
    const counts = await start([first, second, JSON.stringify(bad), last]);
    assert.deepEqual([counts.imported, counts.failed, counts.messages], [3, 1, 6]);
    const message = `the message ${taken} exists in another conversation`;
    assert.deepEqual(counts.errors, [{ line: 3, message }]);
    const again = await start([last, third, second, first]);
    assert.deepEqual([again.imported, again.skipped], [1, 3]);
    const replaced = await start([first, third, line(2, 20)], { replace: true });
    assert.deepEqual([replaced.replaced, replaced.imported], [2, 1]);
  });

  test('a batch finds ids that are deleted, and one that occurs twice', async () => {
    const lines = Array.from({ length: 3 }, () => line(2, 20));
    await start(lines);
    const [deleted] = lines.map((text) => JSON.parse(text).conversation_id);
    await database.conversations.delete(deleted, { unrestricted: true, owner: null });
    const counts = await start([...lines, ...lines]);
    assert.deepEqual([counts.imported, counts.skipped], [1, 5]);
  });
});
