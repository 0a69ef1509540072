import { join } from 'node:path';
import type { Knex } from 'knex';
import { pause } from '../../util/timers.ts';
import { listWorkers } from './process-lock.ts';
import { HEARTBEATS_PER_LEASE } from './registry.ts';

const POLL_MS = 250;
/** A heartbeat may come late. */
const MARGIN_MS = 1000;

/**
 * The ids of the processes that use the database: those of this host that hold their lock, and those whose heartbeat
 * changes within its interval.
 * @param folder DATA_DIR
 */
export async function listAlive(knex: Knex, folder: string, leaseMs: number): Promise<string[]> {
  const { alive, dead } = listWorkers(join(folder, 'workers'));
  if (alive.length > 0 || !(await knex.schema.hasTable('workers'))) return alive;
  const beats = async () => {
    const rows = await knex('workers').select<{ id: string; beat: number }[]>('id', 'beat');
    return new Map(rows.flatMap(({ id, beat }) => (dead.includes(id) ? [] : [[id, beat]])));
  };
  const before = await beats();
  const deadline = performance.now() + leaseMs / HEARTBEATS_PER_LEASE + MARGIN_MS;
  while (before.size > 0 && performance.now() < deadline) {
    await pause(POLL_MS);
    const changed = [...(await beats())].filter(([id, beat]) => before.get(id) !== beat);
    if (changed.length > 0) return changed.map(([id]) => id);
  }
  return [];
}
