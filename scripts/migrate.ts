/** Migrates the schema: `npm run migrate`, `migrate:rollback`, `migrate:status`, `migrate:make -- NAME`. */
import { writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Knex } from 'knex';
import { type Config, loadConfig } from '../src/config/config.ts';
import { loadEnvironment } from '../src/config/environment.ts';
import { createKnex, describeTarget } from '../src/db/core/client.ts';
import { migrateLatest, migrationStatus, unlockMigrations } from '../src/db/core/migrations.ts';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { CommandError, runCommand } from './command.ts';
import { rollBack } from './rollback.ts';

const FOLDER = fileURLToPath(new URL('../migrations/', import.meta.url));

const USAGE = `usage:
  npm run migrate                      applies the pending migrations
  npm run migrate:status               lists applied and pending migrations
  npm run migrate:rollback -- [--yes]  reverts the last npm run migrate, and drops its tables with their rows:
                                       says what is lost and asks first (--yes: does not ask)
  npm run migrate:rollback -- all      reverts all migrations, and drops all tables
  npm run migrate:make -- NAME         writes an empty migration into migrations/
  npm run migrate:unlock               releases the lock of a run that was killed`;

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

async function latest(knex: Knex): Promise<void> {
  const names = await migrateLatest(knex);
  print(names.length > 0 ? names.map((name) => `applied      ${name}`) : ['no pending migrations']);
}

async function status(knex: Knex): Promise<void> {
  const states = await migrationStatus(knex);
  print(states.map(({ name, applied }) => `${applied ? 'applied' : 'pending'}      ${name}`));
}

async function unlock(knex: Knex): Promise<void> {
  await unlockMigrations(knex);
  print(['lock released']);
}

function print(lines: readonly string[]): void {
  for (const line of lines) console.log(line);
}

async function make(name: string): Promise<void> {
  if (!/^[a-z][a-z\d_]*$/.test(name)) {
    throw new CommandError(
      'a migration needs a name of lower-case letters, digits and _: npm run migrate:make -- add_titles',
    );
  }
  const stamp = new Date().toISOString().replace(/\D/g, '').slice(0, 14);
  const file = join(FOLDER, `${stamp}_${name}.ts`);
  await writeFile(file, EMPTY, { flag: 'wx' });
  console.log(`wrote ${relative(process.cwd(), file)}`);
}

type Work = (knex: Knex, config: Config) => Promise<void>;

async function withDatabase(work: Work): Promise<void> {
  const config = loadConfig(loadEnvironment());
  const options = { ...config.database, queryTimeoutMs: 0 };
  const knex = createKnex(options);
  try {
    console.log(describeTarget(options));
    await work(knex, config);
  } finally {
    await knex.destroy();
  }
}

const COMMANDS: Readonly<Record<string, Work>> = { latest, status, unlock };

async function main(): Promise<void> {
  const { values, positionals } = readArguments(USAGE, {
    options: { yes: { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  const [command = '', argument, ...more] = positionals;
  const { yes } = values;
  if (command === 'rollback' && more.length === 0 && (argument === undefined || argument === 'all')) {
    return withDatabase((knex, config) => rollBack(knex, config, { all: argument === 'all', yes }));
  }
  if (yes && command !== 'rollback') return failUsage('--yes is an option of migrate:rollback only', USAGE);
  if (command === 'make' && argument !== undefined && more.length === 0) return make(argument);
  const work = Object.hasOwn(COMMANDS, command) && argument === undefined ? COMMANDS[command] : undefined;
  return work ? withDatabase(work) : failUsage(`Wrong arguments: ${positionals.join(' ')}`, USAGE);
}

await runCommand(main);
