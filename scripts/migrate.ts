/** Migrates the schema: `npm run migrate`, `migrate:rollback`, `migrate:status`, `migrate:make -- NAME`. */
import { writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Knex } from 'knex';
import { loadConfig } from '../src/config/config.ts';
import { ConfigError, loadEnvironment } from '../src/config/environment.ts';
import { createKnex, type DatabaseOptions, describeTarget } from '../src/db/core/client.ts';
import {
  migrateLatest,
  migrateRollback,
  migrationStatus,
  unlockMigrations,
} from '../src/db/core/migrations.ts';

const FOLDER = fileURLToPath(new URL('../migrations/', import.meta.url));

const USAGE = `usage: node scripts/migrate.ts COMMAND
  latest           applies the pending migrations
  rollback [all]   reverts the last batch, or all migrations, and deletes their data
  status           lists applied and pending migrations
  make NAME        writes an empty migration into migrations/
  unlock           releases the lock of a run that was killed`;

const EMPTY = `import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** One DDL statement: MySQL cannot roll back half a migration. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, { mysql: '', sqlite: [] });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, { mysql: '', sqlite: [] });
}
`;

type Command = (knex: Knex, argument: string | undefined) => Promise<string[]>;

const commands: Record<string, Command> = {
  async latest(knex) {
    const names = await migrateLatest(knex);
    return names.length > 0 ? names.map((name) => `applied      ${name}`) : ['no pending migrations'];
  },
  async rollback(knex, argument) {
    const names = await migrateRollback(knex, argument === 'all');
    return names.length > 0 ? names.map((name) => `rolled back  ${name}`) : ['no migrations to roll back'];
  },
  async status(knex) {
    const states = await migrationStatus(knex);
    return states.map(({ name, applied }) => `${applied ? 'applied' : 'pending'}      ${name}`);
  },
  async unlock(knex) {
    await unlockMigrations(knex);
    return ['lock released'];
  },
};

async function make(name: string | undefined): Promise<void> {
  if (name === undefined || !/^[a-z][a-z\d_]*$/.test(name)) {
    throw new Error('a migration needs a name of lower-case letters, digits and _: make add_titles');
  }
  const stamp = new Date().toISOString().replace(/\D/g, '').slice(0, 14);
  const file = join(FOLDER, `${stamp}_${name}.ts`);
  await writeFile(file, EMPTY, { flag: 'wx' });
  console.log(`wrote ${relative(process.cwd(), file)}`);
}

async function main([name, argument]: readonly string[]): Promise<void> {
  if (name === 'make') return make(argument);
  const command = Object.hasOwn(commands, name ?? '') ? commands[name ?? ''] : undefined;
  if (!command) throw new Error(USAGE);
  const options: DatabaseOptions = { ...loadConfig(loadEnvironment()).database, queryTimeoutMs: 0 };
  const knex = createKnex(options);
  try {
    console.log(describeTarget(options));
    for (const line of await command(knex, argument)) console.log(line);
  } finally {
    await knex.destroy();
  }
}

function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name !== 'MigrationLocked') return error.message;
  return `${error.message}: another process is migrating. If it was killed, release its lock with: npm run migrate:unlock`;
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof ConfigError ? error.message : describeError(error));
  process.exitCode = 1;
}
