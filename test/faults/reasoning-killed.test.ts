/** Row "kill -9 mid-stream", in the middle of the reasoning and of a tool call. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { databases, until } from '../support/chat-server.ts';
import { startCluster } from '../support/cluster.ts';
import { chunk, raw, reasoning, script, silence } from '../support/fake-upstream.ts';
import { Ledger } from '../support/ledger.ts';
import { query } from '../support/snapshot.ts';
import { checkStream, joinedReasoning, openStream, resumeStream } from '../support/sse-client.ts';

const CALL = { index: 0, id: 'a', type: 'function', function: { name: 'weather', arguments: '{"ci' } };

const STORED = `SELECT uid, content, status, finish_reason, reasoning, details FROM messages
  WHERE role = 'assistant' ORDER BY id`;
const text = z.string().nullable();
const stored = z.array(
  z.object({
    uid: z.string(),
    content: z.string(),
    status: z.string(),
    finish_reason: text,
    reasoning: text,
    details: text,
  }),
);

describe('kill -9', { concurrency: 2 }, () => {
  for (const place of databases()) {
    it(`in reasoning and in a tool call leaves incomplete replies, on ${place.name}`, async (t) => {
      const cluster = await startCluster(1, await place.create());
      t.after(async () => {
        await cluster.close();
        await place.drop();
      });
      cluster.upstream.respond([
        script(reasoning('Let me 🤔'), silence()),
        script(reasoning('A call'), raw(chunk({ tool_calls: [CALL] })), silence()),
      ]);
      const member = cluster.at(0);
      const ids: string[] = [];
      for (const message of ['in reasoning', 'in a call']) {
        const stream = await openStream(member.url, { message, reasoning: true });
        ids.push(String(stream.headers['x-stream-id']));
      }
      const rows = async () => stored.parse(await query(cluster.place, STORED));
      await until('the reasoning', async () =>
        (await rows()).every(({ reasoning: said }) => said === 'Let me 🤔' || said === 'A call'),
      );
      await member.kill(new Ledger());
      await member.start();
      const row = {
        content: '',
        status: 'incomplete',
        finish_reason: 'error',
        details: '{"wants_reasoning":true}',
      };
      await until('the end of the lease', async () =>
        (await rows()).every(({ status }) => status === 'incomplete'),
      );
      assert.deepEqual(await rows(), [
        { uid: ids[0], ...row, reasoning: 'Let me 🤔' },
        { uid: ids[1], ...row, reasoning: 'A call' },
      ]);
      for (const [index, id] of ids.entries()) {
        const events = await (await resumeStream(member.url, id)).rest();
        const { type, data } = checkStream(events);
        assert.deepEqual([type, data.code, data.tool_calls], ['error', 'reply_incomplete', undefined]);
        assert.equal(joinedReasoning(events), index === 0 ? 'Let me 🤔' : 'A call');
      }
    });
  }
});
