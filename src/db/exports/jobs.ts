import type { Knex } from 'knex';
import type { Access } from '../../domain/access/access.ts';
import type { Instant } from '../../domain/conversations/conversation.ts';
import { fromText, toText } from '../../domain/exports/infinity-json.ts';
import type {
  ExportCheckpoint,
  ExportJob,
  ExportJobStore,
  ExportManifest,
  JobListCursor,
  JobNotification,
  JobScope,
  JobStatus,
  NotifyChannel,
} from '../../domain/exports/jobs.ts';
import { fromTime, toTime } from '../core/codec.ts';
import { asAppErrors, transaction, withReconnect } from '../core/errors.ts';
import type { ExportJobRow } from '../core/tables.ts';

type Rows = Knex.QueryBuilder<ExportJobRow, ExportJobRow[]>;

type Changes = { [Column in keyof ExportJobRow]?: ExportJobRow[Column] | Knex.Raw };

const CHANNELS: readonly NotifyChannel[] = ['email', 'webhook'];

/** A notification that is due later was stored before the clock was set back. */
const MAX_NOTIFY_PAUSE_MS = 2 * 3_600_000;

export class KnexExportJobs implements ExportJobStore {
  readonly #knex: Knex;

  constructor(knex: Knex) {
    this.#knex = knex;
  }

  async add(job: ExportJob): Promise<void> {
    const left = CHANNELS.filter((channel) => job.request.notify[channel] !== null);
    const row: ExportJobRow = {
      id: job.id,
      owner: job.owner,
      status: job.status,
      request: toText(job.request),
      scope: null,
      checkpoint: null,
      manifest: null,
      error: null,
      notify_at: null,
      notify_left: left.join(),
      notify_tries: 0,
      worker: null,
      created_at: toTime(job.createdAt),
      started_at: null,
      finished_at: null,
    };
    await withReconnect(() => this.#knex('export_jobs').insert(row).onConflict('id').ignore());
  }

  async find(id: string): Promise<ExportJob | null> {
    const row = await withReconnect(() => this.#knex('export_jobs').where({ id }).first());
    return row ? toJob(row) : null;
  }

  async findAll(ids: readonly string[]): Promise<ExportJob[]> {
    const rows = await withReconnect(() => this.#knex('export_jobs').whereIn('id', ids));
    return rows.map(toJob);
  }

  async countByStatus(): Promise<Record<JobStatus, number>> {
    const rows = await withReconnect(() =>
      this.#knex('export_jobs').select('status').count({ jobs: '*' }).groupBy('status'),
    );
    const counts = { queued: 0, running: 0, done: 0, failed: 0, cancelled: 0 };
    return Object.assign(counts, Object.fromEntries(rows.map(({ status, jobs }) => [status, Number(jobs)])));
  }

  async list(access: Access, limit: number, before: JobListCursor | null): Promise<ExportJob[]> {
    const rows = await withReconnect(() => {
      const query = this.#knex('export_jobs').orderBy([
        { column: 'created_at', order: 'desc' },
        { column: 'id', order: 'desc' },
      ]);
      if (!access.unrestricted) query.where({ owner: access.owner ?? '' });
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

  async claim(worker: string, now: Instant, known: readonly string[]): Promise<ExportJob | null> {
    const row = await this.#claim(
      worker,
      known,
      (free) => free.whereIn('status', ['queued', 'running']).orderBy('created_at').orderBy('id'),
      ({ started_at }) => ({ status: 'running', started_at: started_at ?? toTime(now) }),
    );
    return row && toJob(row);
  }

  saveScope(id: string, worker: string, scope: JobScope): Promise<boolean> {
    return this.#updateOwned(id, worker, { scope: toText(scope) });
  }

  saveCheckpoint(id: string, worker: string, checkpoint: ExportCheckpoint): Promise<boolean> {
    return this.#updateOwned(id, worker, { checkpoint: toText(checkpoint) });
  }

  finish(id: string, worker: string, manifest: ExportManifest, at: Instant): Promise<boolean> {
    return this.#end(id, worker, { status: 'done', manifest: toText(manifest) }, at);
  }

  fail(id: string, worker: string, error: string, at: Instant): Promise<boolean> {
    return this.#end(id, worker, { status: 'failed', error }, at);
  }

  async isOwned(id: string, worker: string): Promise<boolean> {
    const owned = { id, worker, status: 'running' };
    const row = await withReconnect(() => this.#knex('export_jobs').where(owned).first('id'));
    return row !== undefined;
  }

  async release(id: string, worker: string): Promise<void> {
    await this.#updateOwned(id, worker, { worker: null });
  }

  cancel(id: string, at: Instant): Promise<boolean> {
    return withReconnect(async () => {
      const count = await this.#knex('export_jobs')
        .where({ id })
        .whereIn('status', ['queued', 'running'])
        .update({ status: 'cancelled', worker: null, finished_at: toTime(at) });
      return count > 0;
    });
  }

  async remove(id: string): Promise<void> {
    await withReconnect(() => this.#knex('export_jobs').where({ id }).delete());
  }

  async endedBefore(at: Instant, limit: number): Promise<ExportJob[]> {
    const rows = await withReconnect(() =>
      this.#knex('export_jobs').where('finished_at', '<', toTime(at)).orderBy('created_at').limit(limit),
    );
    return rows.map(toJob);
  }

  async claimNotification(
    worker: string,
    now: Instant,
    known: readonly string[],
  ): Promise<JobNotification | null> {
    const row = await this.#claim(
      worker,
      known,
      (free) =>
        free
          .where((due) =>
            due
              .where('notify_at', '<=', toTime(now))
              .orWhere('notify_at', '>', toTime(now + MAX_NOTIFY_PAUSE_MS)),
          )
          .orderBy('notify_at'),
      ({ notify_tries }) => ({ notify_tries: notify_tries + 1 }),
    );
    if (!row) return null;
    const left = CHANNELS.filter((channel) => row.notify_left.split(',').includes(channel));
    return { job: toJob(row), left, attempt: row.notify_tries };
  }

  saveNotification(
    id: string,
    worker: string,
    left: readonly NotifyChannel[],
    nextAt: Instant | null,
  ): Promise<boolean> {
    const notify_at = nextAt === null ? null : toTime(nextAt);
    return this.#updateIf({ id, worker }, { worker: null, notify_left: left.join(), notify_at });
  }

  /** The first process to update the row owns it; the others try the next row. */
  async #claim(
    worker: string,
    known: readonly string[],
    choose: (free: Rows) => Rows,
    changes: (row: ExportJobRow) => Partial<ExportJobRow>,
  ): Promise<ExportJobRow | null> {
    for (;;) {
      const free = this.#knex('export_jobs')
        .where((where) => where.whereNull('worker').orWhere({ worker }))
        .whereNotIn('id', known);
      const row = await withReconnect(() => choose(free.clone()).first());
      if (!row) return null;
      const { id, status, notify_tries } = row;
      const changed = { ...changes(row), worker };
      if (await this.#updateIf({ id, status, notify_tries, worker: row.worker }, changed)) {
        return { ...row, ...changed };
      }
    }
  }

  /** Cancelled jobs are not notified. */
  #end(id: string, worker: string, how: Partial<ExportJobRow>, at: Instant): Promise<boolean> {
    const finished_at = toTime(at);
    const notify_at = this.#knex.raw(`CASE WHEN notify_left = '' THEN NULL ELSE ? END`, [finished_at]);
    return this.#updateOwned(id, worker, { ...how, worker: null, finished_at, notify_at });
  }

  #updateOwned(id: string, worker: string, changes: Changes): Promise<boolean> {
    return this.#updateIf({ id, worker, status: 'running' }, changes);
  }

  /**
   * False when no row was as expected. In a transaction with a look at the row, because MySQL counts a row that had
   * these values already as unchanged.
   */
  #updateIf(expected: Partial<ExportJobRow>, changes: Changes): Promise<boolean> {
    return asAppErrors(() =>
      transaction(this.#knex, async (trx) => {
        const found = await trx('export_jobs').where(expected).forUpdate().first('id');
        if (!found) return false;
        await trx('export_jobs').where({ id: found.id }).update(changes);
        return true;
      }),
    );
  }
}

function toJob(row: ExportJobRow): ExportJob {
  const json = (text: string | null) => (text === null ? null : fromText(text));
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
