/** `npm run migrate:rollback`: lists what is lost, asks for confirmation, copies SQLite's file, then rolls back. */
import type { Knex } from 'knex';
import type { Config } from '../src/config/config.ts';
import { dialectOf } from '../src/db/core/dialect.ts';
import { migrateRollback, migrationsToRollBack } from '../src/db/core/migrations.ts';
import { listAlive } from '../src/db/workers/alive.ts';
import { askFirst, CommandError, fileStamp } from './command.ts';

/** @throws CommandError when a process uses the database, or the answer is not yes */
export async function rollBack(
  knex: Knex,
  config: Config,
  { all, yes }: { readonly all: boolean; readonly yes: boolean },
): Promise<void> {
  const names = await migrationsToRollBack(knex, all);
  if (names.length === 0) return console.log('no migrations to roll back');
  for (const line of await describeLoss(knex, names)) console.log(line);
  await refuseAlive(knex, config);
  if (!yes) await askFirst('Nothing was rolled back');
  await refuseAlive(knex, config);
  const copy = await dialectOf(knex).backup(knex, `before-rollback-${fileStamp()}`);
  if (copy !== null) console.log(`copied to    ${copy}`);
  for (const name of await migrateRollback(knex, all)) console.log(`rolled back  ${name}`);
}

/** Lists the migrations and the tables that are dropped: the rollback of `…_create_<table>` drops that table. */
async function describeLoss(knex: Knex, names: readonly string[]): Promise<string[]> {
  const lines = [`reverts ${names.length} migrations:`, ...names.map((name) => `  ${name}`)];
  const tables = names.flatMap((name) => /_create_(\w+)$/.exec(name)?.[1] ?? []);
  if (tables.length === 0) return lines;
  lines.push('drops these tables with their rows:');
  for (const table of tables.toReversed()) {
    const [{ rows = 0 } = {}] = await knex(table).count({ rows: '*' });
    lines.push(`  ${table.padEnd(16)} ${rows} rows`);
  }
  return lines;
}

async function refuseAlive(knex: Knex, { dataDir, durability }: Config): Promise<void> {
  const alive = await listAlive(knex, dataDir, durability.leaseMs);
  if (alive.length === 0) return;
  throw new CommandError(
    `Nothing was rolled back: ${alive.length} server processes use this database (${alive.join(', ')}); stop them first`,
  );
}
