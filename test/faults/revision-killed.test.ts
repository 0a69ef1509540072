/** Row "kill -9 mid-stream", of a reply that takes the place of another one: SQLite, the process is started again. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { chatReply } from '../../src/http/schemas/chat.ts';
import { conversation } from '../../src/http/schemas/conversations.ts';
import { until } from '../support/chat-server.ts';
import { makeFolder } from '../support/child-server.ts';
import {
  createGate,
  delta,
  reply,
  script,
  silence,
  startFakeUpstream,
  wait,
} from '../support/fake-upstream.ts';
import { openStream } from '../support/sse-client.ts';

const CASES = [
  { when: 'before its first text', asked: 'q1', steps: [wait(createGate())], said: ['q1', 'a1'] },
  {
    when: 'after its first text',
    asked: 'q2',
    steps: [delta('half'), silence()],
    said: ['q2, edited', 'half'],
  },
];

it('a kill of a revision leaves the old reply or its text so far, and the conversation free', async (t) => {
  const upstream = await startFakeUpstream();
  const folder = await makeFolder();
  t.after(async () => {
    await folder.remove();
    await upstream.close();
  });
  const env = {
    OPENAI_BASE_URL: upstream.baseUrl,
    OPENAI_API_KEY: 'sk',
    SSE_OPEN_MS: '0',
    CHECKPOINT_MS: '50',
  };
  const post = async (url: string, body: object) => {
    const headers = { 'content-type': 'application/json' };
    return fetch(`${url}/api/chat`, { method: 'POST', headers, body: JSON.stringify(body) });
  };
  const read = async (url: string, id: string) => {
    const body = conversation.parse(await (await fetch(`${url}/api/conversations/${id}`)).json());
    return body.messages;
  };
  const contents = async (url: string, id: string) => (await read(url, id)).map(({ content }) => content);
  const first = folder.start(env);
  const url = await first.listening();
  const killed: { id: string; when: string; said: string[] }[] = [];
  for (const { when, asked, steps, said } of CASES) {
    upstream.respond([reply('a1')]);
    const { conversation_id: id } = chatReply.parse(await (await post(url, { message: asked })).json());
    const [question] = await read(url, id);
    upstream.respond([script(...steps)]);
    const edit = { edit: question?.id, message: `${asked}, edited`, conversation_id: id };
    const stream = await openStream(url, edit);
    await stream.until('start');
    await upstream.waitForRequest(2 * killed.length + 2);
    await until(
      `the state before the kill ${when}`,
      async () => (await contents(url, id)).join() === said.join(),
    );
    killed.push({ id, when, said });
  }
  first.process.kill('SIGKILL');
  await first.exited();
  const again = folder.start(env);
  const next = await again.listening();
  for (const { id, when, said } of killed) {
    const messages = await read(next, id);
    assert.deepEqual(
      messages.map(({ content }) => content),
      said,
      when,
    );
    upstream.respond([reply('new')]);
    const regenerated = await post(next, { regenerate: messages.at(-1)?.id, conversation_id: id });
    assert.equal(regenerated.status, 200, await regenerated.text());
    assert.deepEqual(await contents(next, id), [said[0], 'new'], when);
  }
});
