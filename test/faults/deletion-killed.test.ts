/** Row "kill -9 during the deletion of a long conversation". */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { z } from 'zod';
import type { DatabaseOptions } from '../../src/db/core/client.ts';
import { openDatabase } from '../../src/db/database.ts';
import { fillConversation } from '../db/fixtures.ts';
import { databases, until } from '../support/chat-server.ts';
import { startCluster } from '../support/cluster.ts';
import { optionsFor, silent } from '../support/databases.ts';
import { Ledger } from '../support/ledger.ts';
import { query, type StoredIn } from '../support/snapshot.ts';
import { question, replyTo } from '../support/story.ts';

const MESSAGES = 4000;
/** The removal cannot pass this message: the kill and the next question find it half done, however fast it is. */
const HELD = {
  on: 'CREATE TRIGGER held BEFORE DELETE ON messages',
  seq: MESSAGES / 2,
  off: 'DROP TRIGGER held',
};
const FAIL = {
  sqlite: `WHEN OLD.seq = ${HELD.seq} BEGIN SELECT RAISE(ABORT, 'held'); END`,
  mysql: `FOR EACH ROW IF OLD.seq = ${HELD.seq} THEN SIGNAL SQLSTATE '45000'; END IF`,
} as const;

describe('kill -9 during the deletion of a long conversation', { concurrency: 2 }, () => {
  for (const place of databases()) {
    it(`on ${place.name}: invisible throughout, its rows are removed after the restart`, async (t) => {
      const never = { CONVERSATION_TTL_HOURS: '0', SSE_OPEN_MS: '0' };
      const cluster = await startCluster(1, await place.create(), never);
      t.after(async () => {
        await cluster.close();
        await place.drop();
      });
      const member = cluster.at(0);
      const id = crypto.randomUUID();
      const target = targetOf(cluster.place);
      const database = openDatabase(optionsFor(target), silent);
      t.after(() => database.close());
      await fillConversation(database.knex, id, MESSAGES);
      await database.knex.raw(`${HELD.on} ${FAIL[target.kind]}`);
      const left = async () => {
        const rows = await query(
          cluster.place,
          `SELECT COUNT(*) AS count FROM messages WHERE conversation_id = '${id}' AND content = 'an old message'`,
        );
        return z.tuple([z.object({ count: z.number() })]).parse(rows)[0].count;
      };
      const read = (path: string) => fetch(`${member.url}${path}`);
      const assertInvisible = async () => {
        assert.equal((await read(`/api/conversations/${id}`)).status, 404);
        const all = await (await read('/api/conversations/export-all?format=ndjson')).text();
        assert(!all.includes(id));
      };

      const deleted = await fetch(`${member.url}/api/conversations/${id}`, { method: 'DELETE' });
      assert.equal(deleted.status, 200);
      await until('some rows are removed', async () => (await left()) < MESSAGES);
      await assertInvisible();
      const ledger = new Ledger();
      await member.kill(ledger);
      const atKill = await left();
      assert(atKill > 0, 'the deletion was over before the kill');
      t.diagnostic(`${atKill} rows were left`);
      await member.start();
      await assertInvisible();

      const message = question({ pieces: 2, pace: 1 });
      const asked = await fetch(`${member.url}/api/chat`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ message, conversation_id: id }),
      });
      assert.equal(asked.status, 200, await asked.text());
      const assertNew = async () => {
        const text = await (await read(`/api/conversations/${id}`)).text();
        const { messages }: { messages: { content: string }[] } = JSON.parse(text);
        assert.deepEqual(
          messages.map(({ content }) => content),
          [message, replyTo(message)],
        );
        const all = await (await read('/api/conversations/export-all?format=ndjson')).text();
        assert(all.includes(id) && !all.includes('an old message'));
      };
      await assertNew();
      const sent = cluster.upstream.requests.at(-1)?.body.messages.filter(({ role }) => role !== 'system');
      assert.deepEqual(
        sent?.map(({ content }) => content),
        [message],
      );
      assert((await left()) > 0);
      await database.knex.raw(HELD.off);
      await until('all old rows are removed', async () => (await left()) === 0);
      await assertNew();
    });
  }
});

function targetOf(place: StoredIn): DatabaseOptions['target'] {
  return 'file' in place ? { kind: 'sqlite', file: place.file } : { kind: 'mysql', url: place.url };
}
