import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Retention } from '../../../../src/domain/conversations/retention.ts';
import { AppError } from '../../../../src/domain/errors.ts';
import {
  type ExportConversation,
  type ExportPage,
  type ExportPart,
  type ExportSource,
  pageOf,
} from '../../../../src/domain/exports/exports.ts';
import type { ExportFiles, ExportFormat, ExportJob } from '../../../../src/domain/exports/jobs.ts';
import { CursorCodec } from '../../../../src/services/exports/cursor-codec.ts';
import { ExportService } from '../../../../src/services/exports/exports.ts';
import { type JobFileParts, JobLostError, writeJobFile } from '../../../../src/services/exports/job-file.ts';
import { queuedJob } from '../../../notify/jobs.ts';

const CONVERSATIONS = 30;
const SCOPE = {
  filter: { owner: null, from: null, to: null, role: null, status: null },
  conversationId: null,
  activeSince: 0,
  lastCreated: 1,
};

function conversation(n: number): ExportConversation {
  const createdAt = new Date(n).toISOString();
  return { id: String(n).padStart(3, '0'), createdAt, lastActive: createdAt };
}

/** Two short conversations a page, and every fifth one alone in many pieces. */
function source(deleted: number): ExportSource {
  const messages = (n: number, count: number) =>
    Array.from({ length: count }, (_, m) => ({
      ...{ uid: `${n}-${m}-${count}`, role: 'user', content: `${n} `.repeat(200), timestamp: '', status: '' },
    }));
  return {
    scope: async (_filter, _id, _active, since = null) => ({ ...SCOPE, since }),
    count: async () => ({ conversations: CONVERSATIONS, messages: 1 }),
    async *deletions() {
      for (let n = 0; n < deleted; n += 1) yield [{ id: `gone ${n}`, deletedAt: '' }];
    },
    async *read(_scope, after): AsyncGenerator<ExportPage> {
      let page: ExportPart[] = [];
      for (let n = after ? Number(after.id) + 1 : 0; n < CONVERSATIONS; n += 1) {
        const one = conversation(n);
        if (n % 5 === 4) {
          if (page.length > 0) yield pageOf(page);
          page = [];
          for (let piece = 1; piece <= 6; piece += 1) {
            yield pageOf([
              { conversation: one, messages: messages(n, piece), begins: piece === 1, ends: piece === 6 },
            ]);
          }
        } else page.push({ conversation: one, messages: messages(n, 2), begins: true, ends: true });
        if (page.length === 2 || n === CONVERSATIONS - 1) {
          if (page.length > 0) yield pageOf(page);
          page = [];
        }
      }
    },
  };
}

/** Files in memory, of which only what was synced survives a crash. */
function memoryFiles() {
  const parts = new Map<string, string>();
  const done = new Map<string, string>();
  const files: Pick<ExportFiles, 'open' | 'saveManifest'> = {
    async open(id, _request, bytes) {
      const kept = parts.get(id) ?? '';
      if (kept.length < bytes) return null;
      let text = kept.slice(0, bytes);
      return {
        get bytes() {
          return text.length;
        },
        async write(more) {
          text += more;
        },
        async sync() {
          parts.set(id, text);
          return text.length;
        },
        async finish() {
          done.set(id, text);
          parts.delete(id);
          return { bytes: text.length, sha256: '' };
        },
        async close() {},
      };
    },
    async saveManifest() {},
  };
  const never = () => Promise.reject(new Error('not here'));
  return { done, files: { ...files, find: never, remove: never, sweep: never } };
}

/** The row of one job. @param fate 0: the statement fails; 1: it commits and fails */
function memoryStore(fate: () => number | undefined) {
  let row: ExportJob | undefined;
  const change = async (changes: Partial<ExportJob>) => {
    const now = fate();
    if (row && now !== 0) row = { ...row, ...changes };
    if (now === 0 || now === 1) throw new AppError('database_unavailable');
    return true;
  };
  const store: JobFileParts['store'] = {
    isOwned: async () => true,
    saveScope: (_id, _worker, scope) => change({ scope }),
    saveCheckpoint: (_id, _worker, checkpoint) => change({ checkpoint }),
  };
  return {
    store,
    get row() {
      return row;
    },
    put(job: ExportJob) {
      row = job;
    },
  };
}

/** @param fate for each statement: 0 fails, 1 commits and fails; the job then resumes from its row */
async function made(format: ExportFormat, deleted: number, fate: readonly number[]) {
  const left = [...fate];
  const { files, done } = memoryFiles();
  const memory = memoryStore(() => left.shift());
  const codec = new CursorCodec(async () => ['secret']);
  const exports = new ExportService(source(deleted), codec, { now: () => 1 }, new Retention(0));
  const parts = { store: memory.store, files, exports, worker: 'me' };
  const request = { ...queuedJob().request, format, since: deleted > 0 ? { at: 1 } : null };
  const job = queuedJob({ request, status: 'running' });
  memory.put(job);
  const { signal } = new AbortController();
  for (let attempts = 0; attempts < 1000; attempts += 1) {
    try {
      const manifest = await writeJobFile(parts, memory.row ?? job, signal, () => {});
      return { manifest: { ...manifest, sha256: '' }, text: done.get(job.id), attempts };
    } catch (error) {
      assert(error instanceof AppError, String(error));
    }
  }
  return assert.fail('it never ends');
}

describe('the file of a job', () => {
  it('is the same, whatever fails meanwhile', async (t) => {
    let now = 0;
    let steps: readonly number[] = [];
    let asked = 0;
    // Not a mock of the test runner, which keeps a stack of every call.
    performance.now = () => {
      now += steps[asked++ % Math.max(1, steps.length)] ?? 0;
      return now;
    };
    t.after(() => Reflect.deleteProperty(performance, 'now'));
    let interrupted = 0;
    const undisturbed = new Map<string, Awaited<ReturnType<typeof made>>>();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom<ExportFormat[]>('json', 'csv', 'ndjson'),
        fc.nat(3),
        fc.array(fc.nat(4), { maxLength: 40 }),
        fc.array(fc.constantFrom(0, 10, 100, 300, 600, 1000), { minLength: 1, maxLength: 20 }),
        async (format, deleted, fate, times) => {
          const gone = format === 'csv' ? 0 : deleted;
          steps = [];
          const quiet = undisturbed.get(`${format} ${gone}`) ?? (await made(format, gone, []));
          undisturbed.set(`${format} ${gone}`, quiet);
          steps = times;
          const stormy = await made(format, gone, fate);
          interrupted += stormy.attempts;
          assert(stormy.text === quiet.text, `${stormy.text?.length} instead of ${quiet.text?.length}`);
          assert.deepEqual(stormy.manifest, quiet.manifest);
          assert.equal(quiet.manifest.deleted, gone);
        },
      ),
      { numRuns: 200 },
    );
    assert(interrupted > 200, `only ${interrupted} interruptions`);
  });

  it('is not written when the job was lost or stopped', async () => {
    const { files, done } = memoryFiles();
    const codec = new CursorCodec(async () => ['secret']);
    const exports = new ExportService(source(0), codec, { now: () => 1 }, new Retention(0));
    const memory = memoryStore(() => undefined);
    const job = queuedJob({ status: 'running' });
    const write = (isOwned: boolean, signal: AbortSignal) => {
      const store = { ...memory.store, saveScope: async () => isOwned };
      return writeJobFile({ store, files, exports, worker: 'me' }, job, signal, () => {});
    };
    await assert.rejects(write(false, new AbortController().signal), JobLostError);
    const stopped = new Error('stopped');
    await assert.rejects(write(true, AbortSignal.abort(stopped)), stopped);
    assert.equal(done.size, 0);
  });
});
