import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** The visible messages of a conversation in their order. In one statement: earlier versions force the index by its name. */
export async function up(knex: Knex): Promise<void> {
  await changeIndex(knex, 'conversation_id, epoch, seq');
}

export async function down(knex: Knex): Promise<void> {
  await changeIndex(knex, 'conversation_id');
}

async function changeIndex(knex: Knex, columns: string): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE messages DROP KEY messages_conversation, ADD KEY messages_conversation (${columns})`,
    sqlite: [
      'DROP INDEX messages_conversation',
      `CREATE INDEX messages_conversation ON messages (${columns})`,
    ],
  });
}
