import type { Knex } from 'knex';
import type { Instant } from '../domain/conversation.ts';
import type {
  ExportJob,
  ExportJobStore,
  ExportManifest,
  JobCheckpoint,
  JobListCursor,
  JobScope,
  JobStatus,
} from '../domain/export-jobs.ts';
import { fromTime, toTime } from './codec.ts';
import { repeatable, transaction, translated } from './errors.ts';
import type { ExportJobRow } from './tables.ts';

/** Requests, scopes and checkpoints are JSON that only this program writes. */
export class KnexExportJobs implements ExportJobStore {
  readonly #knex: Knex;

  constructor(knex: Knex) {
    this.#knex = knex;
  }

  async add(job: ExportJob): Promise<void> {
    const row: ExportJobRow = {
      id: job.id,
      owner: job.owner,
      status: job.status,
      request: JSON.stringify(job.request),
      scope: null,
      checkpoint: null,
      manifest: null,
      error: null,
      notified: 0,
      worker: null,
      created_at: toTime(job.createdAt),
      started_at: null,
      finished_at: null,
    };
    await repeatable(() => this.#knex('export_jobs').insert(row).onConflict('id').ignore());
  }

  async find(id: string): Promise<ExportJob | null> {
    const row = await repeatable(() => this.#knex('export_jobs').where({ id }).first());
    return row ? toJob(row) : null;
  }

  async list(limit: number, before: JobListCursor | null): Promise<ExportJob[]> {
    const rows = await repeatable(() => {
      const query = this.#knex('export_jobs').orderBy([
        { column: 'created_at', order: 'desc' },
        { column: 'id', order: 'desc' },
      ]);
      if (before) {
        const at = toTime(before.createdAt);
        query.where((where) =>
          where
            .where('created_at', '<', at)
            .orWhere((same) => same.where('created_at', at).where('id', '<', before.id)),
        );
      }
      return query.limit(limit);
    });
    return rows.map(toJob);
  }

  /** Whoever changes the row first has the job; the others look for the next one. */
  async claim(worker: string, now: Instant): Promise<ExportJob | null> {
    for (;;) {
      const row = await repeatable(() =>
        this.#knex('export_jobs')
          .whereIn('status', ['queued', 'running'])
          .whereNull('worker')
          .orderBy('created_at')
          .orderBy('id')
          .first(),
      );
      if (!row) return null;
      const { id, status } = row;
      const taken = await this.#change(
        { id, status, worker: null },
        {
          status: 'running',
          worker,
          started_at: row.started_at ?? toTime(now),
        },
      );
      if (taken)
        return toJob({ ...row, status: 'running', worker, started_at: row.started_at ?? toTime(now) });
    }
  }

  saveScope(id: string, worker: string, scope: JobScope): Promise<boolean> {
    return this.#mine(id, worker, { scope: JSON.stringify(scope, infinities) });
  }

  saveCheckpoint(id: string, worker: string, checkpoint: JobCheckpoint): Promise<boolean> {
    return this.#mine(id, worker, { checkpoint: JSON.stringify(checkpoint) });
  }

  finish(id: string, worker: string, manifest: ExportManifest, at: Instant): Promise<boolean> {
    const finished_at = toTime(at);
    return this.#mine(id, worker, {
      status: 'done',
      worker: null,
      manifest: JSON.stringify(manifest),
      finished_at,
    });
  }

  fail(id: string, worker: string, error: string, at: Instant): Promise<boolean> {
    return this.#mine(id, worker, { status: 'failed', worker: null, error, finished_at: toTime(at) });
  }

  async release(id: string, worker: string): Promise<void> {
    await this.#mine(id, worker, { worker: null });
  }

  cancel(id: string, at: Instant): Promise<boolean> {
    return repeatable(async () => {
      const count = await this.#knex('export_jobs')
        .where({ id })
        .whereIn('status', ['queued', 'running'])
        .update({ status: 'cancelled', worker: null, finished_at: toTime(at) });
      return count > 0;
    });
  }

  async remove(id: string): Promise<void> {
    await repeatable(() => this.#knex('export_jobs').where({ id }).delete());
  }

  async endedBefore(at: Instant, limit: number): Promise<ExportJob[]> {
    const rows = await repeatable(() =>
      this.#knex('export_jobs').where('finished_at', '<', toTime(at)).orderBy('created_at').limit(limit),
    );
    return rows.map(toJob);
  }

  async claimNotification(): Promise<ExportJob | null> {
    const row = await repeatable(() =>
      this.#knex('export_jobs').whereIn('status', ['done', 'failed']).where({ notified: 0 }).first(),
    );
    if (!row) return null;
    const mine = await this.#change({ id: row.id, notified: 0 }, { notified: 1 });
    return mine ? toJob(row) : null;
  }

  #mine(id: string, worker: string, changes: Partial<ExportJobRow>): Promise<boolean> {
    return this.#change({ id, worker, status: 'running' }, changes);
  }

  /**
   * False when no row was as expected. In a transaction with a look at the row, because MySQL counts a row that had
   * these values already as unchanged.
   */
  async #change(expected: Partial<ExportJobRow>, changes: Partial<ExportJobRow>): Promise<boolean> {
    try {
      return await transaction(this.#knex, async (trx) => {
        const found = await trx('export_jobs').where(expected).forUpdate().first('id');
        if (!found) return false;
        await trx('export_jobs').where({ id: found.id }).update(changes);
        return true;
      });
    } catch (error) {
      throw translated(error);
    }
  }
}

/** JSON has no infinities, which mean "no bound" here. */
function infinities(_key: string, value: unknown): unknown {
  if (value === Number.NEGATIVE_INFINITY) return '-Infinity';
  return value === Number.POSITIVE_INFINITY ? 'Infinity' : value;
}

function withInfinities(_key: string, value: unknown): unknown {
  return value === '-Infinity' || value === 'Infinity' ? Number(value) : value;
}

function toJob(row: ExportJobRow): ExportJob {
  const json = (text: string | null) => (text === null ? null : JSON.parse(text, withInfinities));
  return {
    id: row.id,
    owner: row.owner,
    status: row.status as JobStatus,
    request: json(row.request),
    scope: json(row.scope),
    checkpoint: json(row.checkpoint),
    manifest: json(row.manifest),
    error: row.error,
    createdAt: fromTime(row.created_at),
    startedAt: row.started_at === null ? null : fromTime(row.started_at),
    finishedAt: row.finished_at === null ? null : fromTime(row.finished_at),
  };
}
