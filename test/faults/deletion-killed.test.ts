/** Row "kill -9 during the deletion of a long conversation". */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { openDatabase } from '../../src/db/database.ts';
import { fillConversation } from '../db/fixtures.ts';
import { databases, until } from '../support/chat-server.ts';
import { startCluster } from '../support/cluster.ts';
import { optionsFor, silent } from '../support/databases.ts';
import { Ledger } from '../support/ledger.ts';
import { query, type StoredIn } from '../support/snapshot.ts';
import { question, replyTo } from '../support/story.ts';

/** More than a DELETE removes before it responds. */
const MESSAGES = { sqlite: 80_000, mysql: 20_000 } as const;

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
      const total = await fill(cluster.place, id);
      const left = async () => {
        const rows = await query(
          cluster.place,
          `SELECT id FROM messages WHERE conversation_id = '${id}' AND content = 'an old message'`,
        );
        return rows.length;
      };
      const read = (path: string) => fetch(`${member.url}${path}`);
      const assertInvisible = async () => {
        assert.equal((await read(`/api/conversations/${id}`)).status, 404);
        const all = await (await read('/api/conversations/export-all?format=ndjson')).text();
        assert(!all.includes(id));
      };

      const deleted = await fetch(`${member.url}/api/conversations/${id}`, { method: 'DELETE' });
      assert.equal(deleted.status, 200);
      await until('some rows are removed', async () => (await left()) < total);
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
      await until('all old rows are removed', async () => (await left()) === 0);
      await assertNew();
    });
  }
});

/** @returns the number of messages */
async function fill(place: StoredIn, id: string): Promise<number> {
  const target =
    'file' in place
      ? ({ kind: 'sqlite', file: place.file } as const)
      : ({ kind: 'mysql', url: place.url } as const);
  const database = openDatabase(optionsFor(target), silent);
  const total = MESSAGES[target.kind];
  await fillConversation(database.knex, id, total);
  await database.close();
  return total;
}
