import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Knex } from 'knex';
import { dialectOf } from './dialect.ts';
import { isFileLocked } from './errors.ts';

const FOLDER = fileURLToPath(new URL('../../../migrations/', import.meta.url));
const TABLE = 'knex_migrations';
/** How long a process waits for another one to migrate the same database. */
const WAIT_SECONDS = 60;

/** A state of the migrations that an operator can mend. The message says how. */
export class MigrationError extends Error {
  override readonly name = 'MigrationError';
}

export interface MigrationState {
  readonly name: string;
  readonly applied: boolean;
}

/**
 * The files of a folder in the order of their names. Names in the database carry no extension, so that a file renamed
 * from .js to .ts is not missing.
 */
export class MigrationFolder implements Knex.MigrationSource<string> {
  readonly #folder: string;

  constructor(folder = FOLDER) {
    this.#folder = folder;
  }

  async getMigrations(): Promise<string[]> {
    const files = await readdir(this.#folder);
    return files.filter((file) => /\.m?[jt]s$/.test(file) && !file.endsWith('.d.ts')).sort();
  }

  getMigrationName(file: string): string {
    return file.replace(/\.m?[jt]s$/, '');
  }

  async getMigration(file: string): Promise<Knex.Migration> {
    return import(pathToFileURL(join(this.#folder, file)).href);
  }

  async names(): Promise<string[]> {
    return (await this.getMigrations()).map((file) => this.getMigrationName(file));
  }
}

/** Knex's `migrations` settings; its command line needs the extension for `migrate:make`. */
export function migrationSettings(): Knex.MigratorConfig {
  return { migrationSource: new MigrationFolder(), tableName: TABLE, extension: 'ts' };
}

/** Every migration of this version, in order. Reads only: an empty database stays empty. */
export async function migrationStatus(knex: Knex, source = new MigrationFolder()): Promise<MigrationState[]> {
  const [names, applied] = await Promise.all([source.names(), appliedNames(knex)]);
  return names.map((name) => ({ name, applied: applied.has(name) }));
}

/** The names that are not applied, in order. Migrations of newer versions are ignored. */
export async function pendingMigrations(knex: Knex, source = new MigrationFolder()): Promise<string[]> {
  const states = await migrationStatus(knex, source);
  return states.filter((state) => !state.applied).map((state) => state.name);
}

async function appliedNames(knex: Knex): Promise<Set<string>> {
  try {
    return new Set(await knex(TABLE).pluck<string[]>('name'));
  } catch (error) {
    if (isFileLocked(error)) throw error;
    if (await knex.schema.hasTable(TABLE)) throw error;
    return new Set();
  }
}

/** The names that a rollback reverts, the newest first. */
export async function migrationsToRollBack(knex: Knex, all: boolean): Promise<string[]> {
  if (!(await knex.schema.hasTable(TABLE))) return [];
  const query = knex(TABLE).orderBy('id', 'desc');
  if (!all) query.where('batch', knex(TABLE).max('batch'));
  return query.pluck('name');
}

/** Applies pending migrations, one process at a time. @returns their names @throws MigrationError */
export async function migrateLatest(knex: Knex, source = new MigrationFolder()): Promise<string[]> {
  return withLock(knex, source, () => knex.migrate.latest({ migrationSource: source }));
}

/** Rolls back the last {@link migrateLatest}, or everything. @returns the names @throws MigrationError */
export async function migrateRollback(
  knex: Knex,
  all = false,
  source = new MigrationFolder(),
): Promise<string[]> {
  return withLock(knex, source, () => knex.migrate.rollback({ migrationSource: source }, all));
}

/** Releases Knex's lock after a process died during a migration. */
export async function unlockMigrations(knex: Knex): Promise<void> {
  await knex.migrate.forceFreeMigrationsLock();
}

async function withLock(
  knex: Knex,
  source: MigrationFolder,
  work: () => Promise<[number, string[]]>,
): Promise<string[]> {
  const unlock = await dialectOf(knex).advisoryLock(knex, 'chat-migrate', WAIT_SECONDS);
  if (!unlock) {
    throw new MigrationError(`another process has been migrating this database for ${WAIT_SECONDS} s`);
  }
  try {
    // Knex would report a locked file as a lock of another migration.
    await dialectOf(knex).waitForWriteLock(knex);
    await refuseNewer(knex, source);
    const [, names] = await work();
    return names;
  } catch (error) {
    throw withReason(error);
  } finally {
    await unlock();
  }
}

/** Knex would say that the folder is corrupt. @throws MigrationError */
async function refuseNewer(knex: Knex, source: MigrationFolder): Promise<void> {
  const known = new Set(await source.names());
  const newer = [...(await appliedNames(knex))].filter((name) => !known.has(name));
  if (newer.length === 0) return;
  throw new MigrationError(
    `The database has migrations of a newer version (${newer.join(', ')}): update this program`,
  );
}

/** Knex reports every error of the statement that takes its lock, such as a missing right, as a lock that is taken. */
function withReason(error: unknown): unknown {
  if (!(error instanceof Error) || error.name !== 'MigrationLocked') return error;
  const reason = error.message.includes('already locked')
    ? 'Another process is migrating, or was killed while it did: release its lock with npm run migrate:unlock'
    : `The lock of the migrations cannot be written: ${error.message.split(' - ').at(-1)}`;
  return new MigrationError(reason, { cause: error });
}
