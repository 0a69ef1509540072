/** `npm run import`: an export, imported into another database and exported again, has the same bytes. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { type ChatServer, databases, startChat } from '../support/chat-server.ts';
import {
  chunk,
  delta,
  done,
  finish,
  raw,
  reasoning,
  reply,
  script,
  usage,
} from '../support/fake-upstream.ts';
import { type ScriptFolder, scriptFolder } from '../support/script.ts';

const IMAGE = 'data:image/png;base64,iVBORw0KGgo=';
const CALLS = ['a', 'b'].map((id) => ({
  id,
  type: 'function',
  function: { name: 'f', arguments: '{"x":1}' },
  extra_content: { signature: id },
}));
const DETAILS = {
  ...{ prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 },
  prompt_tokens_details: { cached_tokens: 2 },
  completion_tokens_details: { reasoning_tokens: 4 },
};
const thinking = script(
  reasoning('Hmm 🤔'),
  delta('Hello'),
  raw(chunk({}, 'stop', { usage: DETAILS })),
  done(),
);
const calling = script(
  reasoning('two calls'),
  raw(chunk({ tool_calls: CALLS.map((call, index) => ({ index, ...call })) })),
  finish('tool_calls'),
  usage(),
  done(),
);
const refusing = script(raw(chunk({ refusal: 'I can’t.' })), finish(), usage(), done());

/** Conversations with everything that they can have. */
async function converse(chat: ChatServer): Promise<void> {
  const say = async (id: string | undefined, body: object) =>
    chat.ask({ cache: false, ...body, ...(id !== undefined && { conversation_id: id }) });
  const created = await chat.call('POST', '/api/conversations', {
    title: '旅行 <&>\u2028',
    system: 'Be "brief".',
    model: 'some-model',
    parameters: { temperature: 0.5, stop: ['x'], tools: [{ type: 'function', function: { name: 'f' } }] },
    user: 'u-1',
    metadata: { b: '2', a: '1', constructor: 'x' },
    pinned: true,
  });
  const full: string = JSON.parse(created.text).conversation_id;
  chat.upstream.respond([thinking, calling, reply('done'), reply('another end'), refusing]);
  const parts = [
    { type: 'text', text: 'what is it?' },
    { type: 'image_url', image_url: { url: IMAGE, detail: 'low' } },
    { type: 'image_url', image_url: { url: 'https://example.com/a.png' } },
  ];
  const first = await say(full, { message: parts, reasoning: true });
  await say(full, { message: 'call' });
  const results = CALLS.map(({ id }) => ({ tool_call_id: id, content: `result ${id}\r\n` }));
  const end = await say(full, { tool_results: results });
  await say(full, { regenerate: end.message_id });
  await say(full, { message: 'no' });
  await chat.call('PUT', `/api/messages/${first.message_id}/feedback`, { rating: 'up', comment: '好' });
  // Regenerated from the start, twice: the order of the rows does not tell what a reply belongs to.
  chat.upstream.respond([reply('a1'), calling, reply('a2'), reply('a3'), reply('a4'), reply('a5')]);
  const other = await say(undefined, { message: 'first line\nsecond' });
  const id = other.conversation_id;
  const call = await say(id, { message: 'call' });
  await say(id, { tool_results: results });
  const again = await say(id, { regenerate: call.message_id });
  await say(id, { regenerate: again.message_id });
  await chat.call('PUT', `/api/messages/${again.message_id}/feedback`, { rating: 'down' });
  const { messages } = await chat.read(id);
  await say(id, { edit: messages[0]?.id, message: 'edited' });
  await chat.call('POST', '/api/conversations', {});
  const sent = [
    { role: 'user', content: 'q1' },
    { role: 'assistant', content: 'a1' },
    { role: 'system', content: 'Now in French.' },
    { role: 'user', content: 'q2' },
  ];
  await chat.call('POST', '/v1/chat/completions', { messages: sent });
}

for (const [at, place] of databases().entries()) {
  const target = databases()[at];
  assert(target);
  describe(`npm run import, on ${place.name},`, () => {
    let chat: ChatServer;
    let folder: ScriptFolder;
    let exported: string;
    const lines = () => exported.trimEnd().split('\n');
    const path = (name: string) => join(folder.path, name);
    const run = async (content: string | Buffer, ...args: string[]) => {
      writeFileSync(path('file'), content);
      const { code, stdout, stderr } = await folder.run('import', 'file', ...args);
      assert.equal(stderr, '');
      return { code, ...JSON.parse(stdout.toString()) };
    };
    const exportAgain = async () => {
      const { stdout } = await folder.run('export', '--format', 'ndjson', '--summary');
      return stdout.toString();
    };
    before(async () => {
      chat = await startChat({ ...(await place.create()) });
      folder = scriptFolder((await target.create()).DATABASE_URL ?? '');
      assert.equal((await folder.run('migrate', 'latest')).code, 0);
      await converse(chat);
      exported = (await chat.call('GET', '/api/conversations/export-all?format=ndjson&summary=true')).text;
    });
    after(async () => {
      await chat.stop();
      folder.remove();
      await Promise.all([place.drop(), target.drop()]);
    });

    it('has the same bytes when it is exported again', async () => {
      const messages = lines().flatMap((line) => JSON.parse(line).messages ?? []);
      for (const member of [
        'parts',
        'reasoning',
        'tool_calls',
        'tool_call_id',
        'refusal',
        'feedback',
        'usage',
      ])
        assert.ok(
          messages.some((message) => member in message),
          member,
        );
      assert.ok(messages.some(({ status }) => status === 'superseded'));
      assert.ok(messages.some((message) => 'reply_to' in message));
      assert.ok(messages.some(({ role }) => role === 'system'));
      assert.deepEqual(await run(exported), {
        ...{ code: 0, imported: 4, replaced: 0, skipped: 0, failed: 0, expired: 0 },
        ...{ messages: messages.length, errors: [] },
      });
      assert.equal(await exportAgain(), exported);
    });

    it('skips what exists, and replaces it with --replace', async () => {
      const skipped = await run(gzipSync(exported));
      assert.deepEqual([skipped.code, skipped.imported, skipped.skipped], [0, 0, 4]);
      const replaced = await run(zstdCompressSync(exported), '--replace');
      assert.deepEqual([replaced.code, replaced.replaced, replaced.skipped], [0, 4, 0]);
      assert.equal(await exportAgain(), exported);
    });
  });
}
