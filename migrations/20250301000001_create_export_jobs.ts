import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

const STATUSES = `CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled'))`;

/**
 * Exports to files. `request`, `scope`, `checkpoint` and `manifest` are JSON; `worker` is the process that writes the
 * file or sends the notifications; when it is null any process can take the job. While `notify_at` is not null,
 * notifications are due on the channels of `notify_left`.
 */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE export_jobs (
      id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      owner VARCHAR(255) COLLATE utf8mb4_bin NULL,
      status VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      request TEXT NOT NULL,
      scope TEXT NULL,
      checkpoint TEXT NULL,
      manifest TEXT NULL,
      error VARCHAR(255) NULL,
      notify_at DATETIME(3) NULL,
      notify_left VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      notify_tries SMALLINT NOT NULL,
      worker CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
      created_at DATETIME(3) NOT NULL,
      started_at DATETIME(3) NULL,
      finished_at DATETIME(3) NULL,
      PRIMARY KEY (id),
      KEY export_jobs_status (status, created_at),
      KEY export_jobs_created_at (created_at),
      KEY export_jobs_finished_at (finished_at),
      KEY export_jobs_notify_at (notify_at),
      KEY export_jobs_worker (worker),
      CONSTRAINT export_jobs_status ${STATUSES}
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE export_jobs (
        id TEXT NOT NULL PRIMARY KEY,
        owner TEXT NULL,
        status TEXT NOT NULL CONSTRAINT export_jobs_status ${STATUSES},
        request TEXT NOT NULL,
        scope TEXT NULL,
        checkpoint TEXT NULL,
        manifest TEXT NULL,
        error TEXT NULL,
        notify_at TEXT NULL,
        notify_left TEXT NOT NULL,
        notify_tries INTEGER NOT NULL,
        worker TEXT NULL,
        created_at TEXT NOT NULL,
        started_at TEXT NULL,
        finished_at TEXT NULL
      ) STRICT, WITHOUT ROWID`,
      'CREATE INDEX export_jobs_status ON export_jobs (status, created_at)',
      'CREATE INDEX export_jobs_created_at ON export_jobs (created_at)',
      'CREATE INDEX export_jobs_finished_at ON export_jobs (finished_at)',
      'CREATE INDEX export_jobs_notify_at ON export_jobs (notify_at) WHERE notify_at IS NOT NULL',
      'CREATE INDEX export_jobs_worker ON export_jobs (worker) WHERE worker IS NOT NULL',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('export_jobs');
}
