/** Rows "kill -9 mid-stream", of replies of several kinds, and "kill -9 during the deletion of a long conversation". */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { OpenAI } from 'openai';
import { z } from 'zod';
import type { DatabaseOptions } from '../../src/db/core/client.ts';
import { openDatabase } from '../../src/db/database.ts';
import { chatReply } from '../../src/http/schemas/chat.ts';
import { conversation } from '../../src/http/schemas/conversations.ts';
import { fillConversation } from '../db/fixtures.ts';
import { databases, until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { optionsFor, silent } from '../support/databases.ts';
import {
  chunk,
  createGate,
  delta,
  raw,
  reasoning,
  reply,
  script,
  silence,
  wait,
} from '../support/fake-upstream.ts';
import { Ledger } from '../support/ledger.ts';
import { query } from '../support/snapshot.ts';
import { checkStream, joined, joinedReasoning, openStream, resumeStream } from '../support/sse-client.ts';
import { question, replyTo } from '../support/story.ts';

/** What a kill interrupts; there is one for all. @returns the rest of the test, after the next start of the server */
type Begin = (cluster: Cluster) => Promise<() => Promise<void>>;

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

const inReasoning: Begin = async ({ upstream, at, place }) => {
  upstream.respond([
    script(reasoning('Let me 🤔'), silence()),
    script(reasoning('A call'), raw(chunk({ tool_calls: [CALL] })), silence()),
  ]);
  const ids: string[] = [];
  for (const message of ['in reasoning', 'in a call']) {
    const stream = await openStream(at(0).url, { message, reasoning: true });
    ids.push(String(stream.headers['x-stream-id']));
  }
  const rows = async () => stored.parse(await query(place, STORED)).filter(({ uid }) => ids.includes(uid));
  await until('the reasoning', async () =>
    (await rows()).every(({ reasoning: said }) => said === 'Let me 🤔' || said === 'A call'),
  );
  return async () => {
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
      const events = await (await resumeStream(at(0).url, id)).rest();
      const { type, data } = checkStream(events);
      assert.deepEqual([type, data.code, data.tool_calls], ['error', 'reply_incomplete', undefined]);
      assert.equal(joinedReasoning(events), index === 0 ? 'Let me 🤔' : 'A call');
    }
  };
};

const REVISIONS = [
  { when: 'before its first text', asked: 'q1', steps: [wait(createGate())], said: ['q1', 'a1'] },
  {
    when: 'after its first text',
    asked: 'q2',
    steps: [delta('half'), silence()],
    said: ['q2, edited', 'half'],
  },
];

const inRevisions: Begin = async ({ upstream, at }) => {
  const post = async (body: object) => {
    const headers = { 'content-type': 'application/json' };
    return fetch(`${at(0).url}/api/chat`, { method: 'POST', headers, body: JSON.stringify(body) });
  };
  const read = async (id: string) =>
    conversation.parse(await (await fetch(`${at(0).url}/api/conversations/${id}`)).json()).messages;
  const contents = async (id: string) => (await read(id)).map(({ content }) => content);
  const begun: { id: string; when: string; said: string[] }[] = [];
  for (const { when, asked, steps, said } of REVISIONS) {
    upstream.respond([reply('a1')]);
    const { conversation_id: id } = chatReply.parse(await (await post({ message: asked })).json());
    const [question] = await read(id);
    const calls = upstream.requests.length;
    upstream.respond([script(...steps)]);
    const edit = { edit: question?.id, message: `${asked}, edited`, conversation_id: id };
    await (await openStream(at(0).url, edit)).until('start');
    await upstream.waitForRequest(calls + 1);
    await until(`the state before the kill ${when}`, async () => (await contents(id)).join() === said.join());
    begun.push({ id, when, said });
  }
  return async () => {
    for (const { id, when, said } of begun) {
      assert.deepEqual(await contents(id), said, when);
      upstream.respond([reply('new')]);
      const last = (await read(id)).at(-1)?.id;
      const regenerated = await post({ regenerate: last, conversation_id: id });
      assert.equal(regenerated.status, 200, await regenerated.text());
      assert.deepEqual(await contents(id), [said[0], 'new'], when);
    }
  };
};

const inOpenAi: Begin = async ({ upstream, at }) => {
  const question = { role: 'user' as const, content: 'Hello' };
  const create = (messages: OpenAI.ChatCompletionMessageParam[]) =>
    new OpenAI({ baseURL: `${at(0).url}/v1`, apiKey: 'none', maxRetries: 0 }).chat.completions
      .create({ model: 'm', messages, stream: true })
      .withResponse();
  upstream.respond([script(delta('so far'), silence())]);
  const { data, response } = await create([question]);
  const [id, streamId] = ['x-conversation-id', 'x-stream-id'].map((name) => response.headers.get(name));
  let said = '';
  const reading = (async () => {
    for await (const { choices } of data) said += choices[0]?.delta.content ?? '';
  })();
  reading.catch(() => {});
  await until('the text to be stored', async () => {
    const answer = await fetch(`${at(0).url}/api/conversations/${id}`);
    return JSON.parse(await answer.text()).messages[1]?.content === 'so far';
  });
  return async () => {
    await assert.rejects(reading);
    assert.equal(said, 'so far');
    const events = await (await resumeStream(at(0).url, String(streamId))).rest();
    assert.deepEqual([checkStream(events).data.code, joined(events)], ['reply_incomplete', 'so far']);
    upstream.respond([reply('and on')]);
    const next = await create([
      question,
      { role: 'assistant', content: said },
      { role: 'user', content: 'Go on' },
    ]);
    for await (const _ of next.data);
    assert.equal(next.response.headers.get('x-conversation-id'), id);
  };
};

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

const inDeletion: Begin = async ({ upstream, at, place }) => {
  const id = crypto.randomUUID();
  const target: DatabaseOptions['target'] =
    'file' in place ? { kind: 'sqlite', file: place.file } : { kind: 'mysql', url: place.url };
  const change = async (work: (database: ReturnType<typeof openDatabase>) => Promise<unknown>) => {
    const database = openDatabase(optionsFor(target), silent);
    await work(database).finally(() => database.close());
  };
  await change(async ({ knex }) => {
    await fillConversation(knex, id, MESSAGES);
    await knex.raw(`${HELD.on} ${FAIL[target.kind]}`);
  });
  const left = async () => {
    const rows = await query(
      place,
      `SELECT COUNT(*) AS count FROM messages WHERE conversation_id = '${id}' AND content = 'an old message'`,
    );
    return z.tuple([z.object({ count: z.number() })]).parse(rows)[0].count;
  };
  const read = (path: string) => fetch(`${at(0).url}${path}`);
  const assertInvisible = async () => {
    assert.equal((await read(`/api/conversations/${id}`)).status, 404);
    const all = await (await read('/api/conversations/export-all?format=ndjson')).text();
    assert(!all.includes(id));
  };
  const deleted = await fetch(`${at(0).url}/api/conversations/${id}`, { method: 'DELETE' });
  assert.equal(deleted.status, 200);
  await until('some rows are removed', async () => (await left()) < MESSAGES);
  await assertInvisible();
  return async () => {
    assert((await left()) > 0, 'the deletion was over before the kill');
    await assertInvisible();
    const message = question({ pieces: 2, pace: 1 });
    const asked = await fetch(`${at(0).url}/api/chat`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ message, conversation_id: id }),
    });
    assert.equal(asked.status, 200, await asked.text());
    const assertNew = async () => {
      const { messages } = conversation.parse(await (await read(`/api/conversations/${id}`)).json());
      assert.deepEqual(
        messages.map(({ content }) => content),
        [message, replyTo(message)],
      );
      const all = await (await read('/api/conversations/export-all?format=ndjson')).text();
      assert(all.includes(id) && !all.includes('an old message'));
    };
    await assertNew();
    const sent = upstream.requests.at(-1)?.body.messages.filter(({ role }) => role !== 'system');
    assert.deepEqual(
      sent?.map(({ content }) => content),
      [message],
    );
    assert((await left()) > 0);
    await change(({ knex }) => knex.raw(HELD.off));
    await until('all old rows are removed', async () => (await left()) === 0);
    await assertNew();
  };
};

const KINDS = {
  'reasoning and in a tool call leaves incomplete replies': inReasoning,
  'a revision leaves the old reply or its text so far, and the conversation free': inRevisions,
  'a stream of /v1 is an error for the client, whose partial history continues the conversation': inOpenAi,
  'the deletion of a long conversation: invisible throughout, its rows are removed after the restart':
    inDeletion,
};

for (const place of databases()) {
  describe(`kill -9 on ${place.name}, in`, () => {
    let cluster: Cluster;
    const begun = new Map<string, () => Promise<void>>();
    before(async () => {
      cluster = await startCluster(1, await place.create(), {
        CHECKPOINT_MS: '50',
        CONVERSATION_TTL_HOURS: '0',
      });
      for (const [name, begin] of Object.entries(KINDS)) begun.set(name, await begin(cluster));
      await cluster.at(0).kill(new Ledger());
      await cluster.at(0).start();
    });
    after(async () => {
      await cluster.close();
      await place.drop();
    });
    for (const name of Object.keys(KINDS)) it(name, () => begun.get(name)?.());
  });
}
