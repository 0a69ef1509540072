import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

const ROLES = `CONSTRAINT messages_role CHECK (role IN ('user', 'assistant'))`;
const STATUSES = `CONSTRAINT messages_status CHECK (status IN ('complete', 'streaming', 'incomplete', 'cancelled'))`;

/** Removes the lists of values: adding one to them would copy the whole table on MySQL. The codec checks the values. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE messages DROP CONSTRAINT messages_role, DROP CONSTRAINT messages_status',
    sqlite: await rebuild(knex, (sql) => sql.replace(` ${ROLES}`, '').replace(` ${STATUSES}`, '')),
  });
}

/** Rows that the earlier version cannot read are deleted. */
export async function down(knex: Knex): Promise<void> {
  await knex('messages').where('role', 'tool').orWhere('status', 'superseded').delete();
  await knex('messages').where('finish_reason', 'tool_calls').update({ finish_reason: 'stop' });
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE messages ADD ${ROLES}, ADD ${STATUSES}`,
    sqlite: await rebuild(knex, (sql) =>
      sql
        .replace('role TEXT NOT NULL', `role TEXT NOT NULL ${ROLES}`)
        .replace('status TEXT NOT NULL', `status TEXT NOT NULL ${STATUSES}`),
    ),
  });
}

/** SQLite cannot change a constraint: the statements copy the table. Row numbers are never used again, also afterwards. */
async function rebuild(knex: Knex, change: (createTable: string) => string): Promise<string[]> {
  if (dialectOf(knex).pooled) return [];
  const rows: { type: string; sql: string | null }[] = await knex('sqlite_master')
    .where('tbl_name', 'messages')
    .select('type', 'sql');
  const table = rows.find(({ type }) => type === 'table')?.sql ?? '';
  const indexes = rows.flatMap(({ type, sql }) => (type === 'index' && sql !== null ? [sql] : []));
  const columns: { name: string }[] = await knex.raw('PRAGMA table_info(messages)');
  const names = columns.map(({ name }) => `"${name}"`).join(', ');
  return [
    change(table).replace(/^CREATE TABLE "?messages"?/, 'CREATE TABLE messages_copy'),
    `INSERT INTO messages_copy (${names}) SELECT ${names} FROM messages ORDER BY id`,
    `DELETE FROM sqlite_sequence WHERE name = 'messages_copy'`,
    `INSERT INTO sqlite_sequence (name, seq) SELECT 'messages_copy', seq FROM sqlite_sequence WHERE name = 'messages'`,
    'DROP TABLE messages',
    'ALTER TABLE messages_copy RENAME TO messages',
    ...indexes,
  ];
}
