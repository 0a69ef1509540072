/**
 * Measures open files, memory and connections of server processes, which must return to their baseline after a fault.
 */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import type { Cluster, Member } from './cluster.ts';
import { query } from './snapshot.ts';

const BACK_MS = 30_000;
/** Further files that a pool, keep-alive connections or the system may hold open. */
const SPARE_FILES = 12;
const SPARE_MEMORY_KB = 200 * 1024;

interface Held {
  /** Undefined if the system does not report it. */
  readonly files: number | undefined;
  readonly memoryKb: number | undefined;
}

export interface Baseline {
  /** Waits until all values are back at the baseline; fails after 30 s, which means a leak. */
  back(): Promise<void>;
}

/** Measures the baseline of every process. Call it after some requests, because the first ones allocate more. */
export async function takeBaseline(cluster: Cluster): Promise<Baseline> {
  const start = await Promise.all(cluster.members.map(held));
  return {
    async back() {
      const deadline = performance.now() + BACK_MS;
      for (;;) {
        const over = await excess(cluster, start);
        if (over.length === 0) return;
        assert(performance.now() < deadline, `not back to baseline in 30 s: ${over.join('; ')}`);
        await pause(100);
      }
    },
  };
}

async function excess(cluster: Cluster, start: readonly Held[]): Promise<string[]> {
  const over: string[] = [];
  for (const member of cluster.members) {
    const now = await held(member);
    const before = start[member.index];
    const who = `server ${member.index}`;
    if ((now.files ?? 0) > (before?.files ?? 0) + SPARE_FILES) {
      over.push(`${who} holds ${now.files} files instead of ${before?.files}`);
    }
    if ((now.memoryKb ?? 0) > (before?.memoryKb ?? 0) + SPARE_MEMORY_KB) {
      over.push(`${who} holds ${now.memoryKb} kB instead of ${before?.memoryKb}`);
    }
  }
  const open = cluster.openCalls();
  if (open > 0) over.push(`${open} calls to the model are open`);
  const sessions = await databaseSessions(cluster);
  // Five of the pool and some for final saves, leases and the journal's replay.
  const allowed = cluster.members.length * 9;
  if (sessions > allowed) over.push(`${sessions} database connections, more than ${allowed}`);
  return over;
}

async function held({ pid }: Member): Promise<Held> {
  const files = await readdir(`/proc/${pid}/fd`).catch(() => undefined);
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  const memory = /VmRSS:\s+(\d+) kB/.exec(status)?.[1];
  return { files: files?.length, memoryKb: memory === undefined ? undefined : Number(memory) };
}

async function databaseSessions({ place }: Cluster): Promise<number> {
  if ('file' in place) return 0;
  const database = new URL(place.url).pathname.slice(1);
  const rows = await query(
    place,
    `SELECT COUNT(*) AS count FROM information_schema.processlist WHERE db = '${database}'`,
  );
  return z.tuple([z.object({ count: z.number() })]).parse(rows)[0].count - 1;
}
