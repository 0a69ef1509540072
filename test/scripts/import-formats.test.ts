/** `npm run import` reads files of ChatGPT, of Open WebUI and JSON exports. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { fileEntries } from '../../scripts/import-lib/formats.ts';
import type { ImportedConversation, ImportedMessage } from '../../src/domain/conversations/imports.ts';
import { type ScriptFolder, scriptFolder } from '../support/script.ts';
import { cpuMs } from '../support/ticks.ts';

const ID = '6f1c1f9e-0000-4000-8000-000000000001';
const uuid = (n: number) => `6f1c1f9e-1111-4000-8000-${String(n).padStart(12, '0')}`;
const SECONDS = 1_700_000_000;
const at = (seconds: number) => (SECONDS + seconds) * 1000;
const PNG = 'data:image/png;base64,iVBORw0KGgo=';

interface Entry {
  readonly line: number;
  readonly error?: string;
  readonly conversation?: ImportedConversation;
  readonly messages: readonly ImportedMessage[];
  readonly renamed: readonly ImportedMessage[];
}

async function all(messages: ImportedConversation['messages'] = []): Promise<ImportedMessage[]> {
  const found: ImportedMessage[] = [];
  for await (const one of messages) found.push(one);
  return found;
}

/** In blocks of this length. */
async function entries(content: string | Buffer | object, size = 4000): Promise<Entry[]> {
  const isBytes = typeof content === 'string' || Buffer.isBuffer(content);
  const bytes = Buffer.from(isBytes ? content : JSON.stringify(content));
  async function* blocks() {
    for (let from = 0; from < bytes.length; from += size) yield bytes.subarray(from, from + size);
  }
  const found: Entry[] = [];
  for await (const { line, error, conversation, renamed } of fileEntries(blocks())) {
    const messages = await all(conversation?.messages);
    const others = await all(renamed?.().messages);
    const known = { line, messages, renamed: others };
    found.push({ ...known, ...(error !== undefined && { error }), ...(conversation && { conversation }) });
  }
  return found;
}

async function only(content: object): Promise<Entry & { conversation: ImportedConversation }> {
  const [entry, ...more] = await entries([content]);
  assert.equal(more.length, 0);
  assert.equal(entry?.error, undefined);
  assert(entry?.conversation);
  return { ...entry, conversation: entry.conversation };
}

const said = (messages: readonly ImportedMessage[]) =>
  messages.map(({ role, content, status }) => [role, content, status]);

/** A node of ChatGPT's mapping. */
function node(n: number, parent: number, role: string, content: object | string, over: object = {}) {
  const text = { content_type: 'text', parts: [content] };
  return {
    id: uuid(n),
    parent: parent === 0 ? 'client-created-root' : uuid(parent),
    children: [],
    message: {
      id: uuid(n),
      author: { role, name: null, metadata: {} },
      create_time: SECONDS + n + 0.5,
      content: typeof content === 'string' ? text : content,
      status: 'finished_successfully',
      recipient: 'all',
      metadata: role === 'assistant' ? { model_slug: 'gpt-4o' } : {},
      ...over,
    },
  };
}

function chatGpt(nodes: { id: string }[], over: object = {}) {
  const root = { id: 'client-created-root', message: null, parent: null, children: [] };
  const mapping = Object.fromEntries([root, ...nodes].map((one) => [one.id, one]));
  const times = { create_time: SECONDS, update_time: SECONDS + 99 };
  return { title: 'T', ...times, mapping, current_node: nodes.at(-1)?.id, conversation_id: ID, ...over };
}

/** A message of Open WebUI's history. */
function message(n: number, parent: number, role: string, content: unknown, over: object = {}) {
  const parentId = parent === 0 ? null : uuid(parent);
  return { id: uuid(n), parentId, childrenIds: [], role, content, timestamp: SECONDS + n, ...over };
}

function openWebUi(messages: { id: string }[], over: object = {}) {
  const byId = Object.fromEntries(messages.map((one) => [one.id, one]));
  const history = { messages: byId, currentId: messages.at(-1)?.id };
  const chat = { id: '', title: 'T', models: ['m'], history, messages: [], timestamp: SECONDS * 1000 };
  const times = { created_at: SECONDS, updated_at: SECONDS + 99 };
  return { id: ID, user_id: 'u', title: 'T', chat, ...times, archived: false, meta: {}, ...over };
}

describe('conversations.json of ChatGPT', () => {
  it('gives questions and replies with their ids, times and models', async () => {
    const item = chatGpt([node(1, 0, 'user', 'q'), node(2, 1, 'assistant', 'a')]);
    const { conversation, messages } = await only(item);
    assert.equal(conversation.id, ID);
    assert.deepEqual([conversation.createdAt, conversation.lastActive], [at(0), at(99)]);
    assert.equal(conversation.settings.title, 'T');
    assert.deepEqual(said(messages), [
      ['user', 'q', 'complete'],
      ['assistant', 'a', 'complete'],
    ]);
    const [question, reply] = messages;
    assert.deepEqual([question?.uid, reply?.uid, reply?.replyTo], [uuid(1), uuid(2), uuid(1)]);
    assert.deepEqual([question?.timestamp, reply?.timestamp], [at(1.5), at(2.5)]);
    assert.deepEqual([reply?.model, reply?.finishReason], ['gpt-4o', 'stop']);
  });

  it('keeps regenerated replies and edited questions as superseded', async () => {
    const nodes = [
      node(1, 0, 'user', 'q'),
      node(2, 1, 'assistant', 'old'),
      node(3, 2, 'user', 'after the old one'),
      node(4, 1, 'assistant', 'a'),
      node(5, 4, 'user', 'edited later'),
      node(6, 5, 'assistant', 'of the first wording'),
      node(7, 4, 'user', 'new wording'),
      node(8, 7, 'assistant', 'end'),
    ];
    const { messages } = await only(chatGpt(nodes));
    assert.deepEqual(said(messages), [
      ['user', 'q', 'complete'],
      ['assistant', 'old', 'superseded'],
      ['user', 'after the old one', 'superseded'],
      ['assistant', 'a', 'complete'],
      ['user', 'edited later', 'superseded'],
      ['assistant', 'of the first wording', 'superseded'],
      ['user', 'new wording', 'complete'],
      ['assistant', 'end', 'complete'],
    ]);
    const replies = messages.filter(({ role }) => role === 'assistant');
    assert.deepEqual(
      replies.map(({ replyTo }) => replyTo),
      [1, 1, 5, 7].map(uuid),
    );
  });

  it('joins the messages of a turn; thoughts and tools become the reasoning', async () => {
    const nodes = [
      node(1, 0, 'user', 'plot it'),
      node(2, 1, 'assistant', {
        content_type: 'thoughts',
        thoughts: [{ summary: 'Plan', content: 'Use Python' }],
      }),
      node(3, 2, 'assistant', { content_type: 'reasoning_recap', content: 'Thought for 2 seconds' }),
      node(4, 3, 'assistant', 'I will draw it.'),
      node(
        5,
        4,
        'assistant',
        { content_type: 'code', language: 'python', text: 'print("```")' },
        { recipient: 'python' },
      ),
      node(6, 5, 'tool', { content_type: 'execution_output', text: '```\n' }),
      node(7, 6, 'tool', {
        content_type: 'multimodal_text',
        parts: [{ content_type: 'image_asset_pointer', asset_pointer: 'file-service://file-1' }],
      }),
      node(8, 7, 'assistant', 'Done.'),
    ];
    const { messages } = await only(chatGpt(nodes));
    assert.deepEqual(said(messages), [
      ['user', 'plot it', 'complete'],
      ['assistant', 'I will draw it.\n\n[image]\n\nDone.', 'complete'],
    ]);
    assert.equal(
      messages[1]?.reasoning,
      'Plan\n\nUse Python\n\npython\n\n````python\nprint("```")\n````\n\n````\n```\n````',
    );
    assert.deepEqual([messages[1]?.uid, messages[1]?.timestamp], [uuid(8), at(8.5)]);
  });

  it('fences code that is a reply, and names no unknown language', async () => {
    const code = { content_type: 'code', language: 'unknown', text: 'x' };
    const { messages } = await only(chatGpt([node(1, 0, 'user', 'q'), node(2, 1, 'assistant', code)]));
    assert.equal(messages[1]?.content, '```\nx\n```');
  });

  for (const [name, text] of Object.entries({
    fences: '``` '.repeat(200_000),
    'empty lines': `${'\n'.repeat(100_000)}x`,
  })) {
    it(`reads the output of a tool with very many ${name}`, async () => {
      const output = node(2, 1, 'tool', { content_type: 'execution_output', text });
      const started = cpuMs();
      const { messages } = await only(chatGpt([node(1, 0, 'user', 'q'), output]));
      assert(messages[1]?.reasoning?.includes(text));
      assert(cpuMs() - started < 5000);
    });
  }

  it('leaves out what people do not see, and takes their instructions as the system prompt', async () => {
    const hidden = { metadata: { is_visually_hidden_from_conversation: true } };
    const nodes = [
      node(1, 0, 'system', '', hidden),
      node(2, 1, 'user', {
        content_type: 'user_editable_context',
        user_profile: 'A cook',
        user_instructions: 'Be short',
      }),
      node(3, 2, 'system', 'shown to all'),
      node(4, 3, 'user', 'q'),
      node(5, 4, 'assistant', ''),
      node(6, 5, 'user', 'go on', hidden),
      node(7, 6, 'assistant', 'a'),
    ];
    const { conversation, messages } = await only(chatGpt(nodes));
    assert.equal(conversation.settings.system, 'A cook\n\nBe short');
    assert.deepEqual(said(messages), [
      ['system', 'shown to all', 'complete'],
      ['user', 'q', 'complete'],
      ['assistant', 'a', 'complete'],
    ]);
  });

  it('reads parts, attachments, marks of sources, and the ends of replies', async () => {
    const parts = [
      { content_type: 'image_asset_pointer', asset_pointer: 'sediment://file_1', width: 1 },
      { content_type: 'audio_transcription', text: 'spoken' },
      { content_type: 'audio_asset_pointer', asset_pointer: 'x' },
      'typed',
    ];
    const attachments = [
      { name: 'a.pdf', mime_type: 'application/pdf' },
      { name: 'b.png', mime_type: 'image/png' },
    ];
    const marked = 'In \uE200entity\uE202["city","Paris"]\uE201.\uE200cite\uE202turn0search1\uE201';
    const references = [{ matched_text: '\uE200entity\uE202["city","Paris"]\uE201', alt: 'Paris' }];
    const nodes = [
      node(1, 0, 'user', { content_type: 'multimodal_text', parts }, { metadata: { attachments } }),
      node(2, 1, 'assistant', marked, { metadata: { content_references: references } }),
      node(3, 2, 'user', 'q'),
      node(4, 3, 'assistant', 'cut', { metadata: { finish_details: { type: 'max_tokens' } } }),
      node(5, 4, 'user', 'q'),
      node(6, 5, 'assistant', 'stopped', { metadata: { finish_details: { type: 'interrupted' } } }),
      node(7, 6, 'user', 'q'),
      node(8, 7, 'assistant', 'running', { status: 'in_progress' }),
    ];
    const { messages } = await only(chatGpt(nodes));
    assert.equal(messages[0]?.content, '[image]\n\nspoken\n\n[audio]\n\ntyped\n\n[file: a.pdf]');
    assert.equal(messages[1]?.content, 'In Paris.');
    const ends = messages.filter(({ role }) => role === 'assistant');
    assert.deepEqual(ends.map(({ status, finishReason }) => [status, finishReason]).slice(1), [
      ['incomplete', 'length'],
      ['cancelled', 'cancelled'],
      ['incomplete', 'error'],
    ]);
  });

  it('does without times, ids, a current node, and nodes that are missing', async () => {
    const nodes = [
      node(1, 9, 'user', 'q', { create_time: null }),
      node(2, 1, 'assistant', 'a', { create_time: null }),
    ];
    const missing = { update_time: null, title: null };
    const over = { ...missing, current_node: null, conversation_id: undefined, id: 'WEB:1' };
    const { conversation, messages } = await only(chatGpt(nodes, over));
    assert.deepEqual(said(messages), [
      ['user', 'q', 'complete'],
      ['assistant', 'a', 'complete'],
    ]);
    assert.deepEqual(
      messages.map(({ timestamp }) => timestamp),
      [at(0), at(0)],
    );
    assert.equal((await only(chatGpt(nodes, over))).conversation.id, conversation.id);
    assert.notEqual((await only(chatGpt(nodes, { ...over, id: 'WEB:2' }))).conversation.id, conversation.id);
    const [damaged] = await entries([chatGpt(nodes, { create_time: null, update_time: null })]);
    assert.match(damaged?.error ?? '', /^created_at: /);
  });

  it('stays in bounds of cycles and of long branches', async () => {
    const cycle = [node(1, 2, 'user', 'q'), node(2, 1, 'assistant', 'a')];
    assert.deepEqual((await only(chatGpt(cycle))).messages, []);
    // More than there is stack for calls.
    const long = Array.from({ length: 12_000 }, (_, n) =>
      node(n + 1, n, n % 2 === 0 ? 'user' : 'assistant', 'x'),
    );
    assert.equal((await only(chatGpt(long))).messages.length, 12_000);
  });

  it('has other message ids, the same every time, for when they are taken', async () => {
    const item = chatGpt([node(1, 0, 'user', 'q'), node(2, 1, 'assistant', 'a')]);
    const { renamed } = await only(item);
    const again = (await only(item)).renamed;
    assert.deepEqual(renamed, again);
    assert.equal(renamed[1]?.replyTo, renamed[0]?.uid);
    assert.notEqual(renamed[0]?.uid, uuid(1));
    const other = await only({ ...item, conversation_id: uuid(77) });
    assert.notEqual(other.renamed[0]?.uid, renamed[0]?.uid);
  });
});

describe('the export of Open WebUI', () => {
  it('gives branches, models, ratings, usage, pins and the system prompt', async () => {
    const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
    const history = [
      message(1, 0, 'user', 'q'),
      message(2, 1, 'assistant', 'old', { model: 'a', done: true }),
      message(3, 1, 'assistant', 'a', {
        model: 'm',
        done: true,
        usage,
        annotation: { rating: 1, comment: 'good' },
      }),
      message(4, 3, 'user', 'more'),
      message(5, 4, 'assistant', '', { model: 'm', error: { content: 'down' } }),
    ];
    const chat = openWebUi(history, { pinned: true });
    const { conversation, messages } = await only({
      ...chat,
      chat: { ...chat.chat, params: { system: 'S' } },
    });
    assert.deepEqual(
      [
        conversation.id,
        conversation.pinned,
        conversation.settings.system,
        conversation.createdAt,
        conversation.lastActive,
      ],
      [ID, true, 'S', at(0), at(99)],
    );
    assert.deepEqual(said(messages), [
      ['user', 'q', 'complete'],
      ['assistant', 'old', 'superseded'],
      ['assistant', 'a', 'complete'],
      ['user', 'more', 'complete'],
      ['assistant', '', 'incomplete'],
    ]);
    const [, old, reply] = messages;
    assert.deepEqual([old?.replyTo, reply?.replyTo, reply?.model], [uuid(1), uuid(1), 'm']);
    assert.deepEqual([reply?.usage, reply?.feedback], [usage, { rating: 'up', comment: 'good' }]);
  });

  it('takes images as parts, and names what it cannot take', async () => {
    const files = [
      { type: 'image', url: PNG },
      { type: 'image', url: '/api/v1/files/1/content' },
      { type: 'file', name: 'a.pdf', url: 'x' },
    ];
    const parts = [
      { type: 'text', text: 'see' },
      { type: 'image_url', image_url: { url: PNG } },
    ];
    const { messages } = await only(
      openWebUi([
        message(1, 0, 'user', 'look', { files }),
        message(2, 1, 'assistant', 'drawn', { files: [{ type: 'image', url: '/cache/1.png' }] }),
        message(3, 2, 'user', parts),
      ]),
    );
    assert.deepEqual(
      messages.map(({ content }) => content),
      ['look\n\n[image]\n\n[file: a.pdf]', 'drawn\n\n[image]', 'see'],
    );
    assert.deepEqual(messages[0]?.details?.parts, [
      { type: 'text', text: 'look\n\n[image]\n\n[file: a.pdf]' },
      { type: 'image_url', image_url: { url: PNG } },
    ]);
    assert.equal(messages[2]?.details?.parts?.length, 2);
  });

  it('takes thoughts, tools and code out of the text', async () => {
    const content = `<details type="reasoning" done="true" duration="3">
<summary>Thought for 3 seconds</summary>
&gt; Is 1 &lt; 2?
&gt; Yes.
</details>
Before
<details type="tool_calls" done="true" id="c1" name="search" arguments="&quot;{\\&quot;q\\&quot;: 1}&quot;" result="&quot;found &gt; 1&quot;" files="">
<summary>Tool Executed</summary>
</details>
After <details>of the text</details>`;
    const output = [
      { type: 'reasoning', content: [{ type: 'output_text', text: 'Hmm' }] },
      { type: 'function_call', call_id: 'c', name: 'f', arguments: '{}' },
      { type: 'function_call_output', call_id: 'c', output: [{ type: 'input_text', text: 'r' }] },
    ];
    const { messages } = await only(
      openWebUi([
        message(1, 0, 'user', 'q'),
        message(2, 1, 'assistant', content),
        message(3, 2, 'user', 'q'),
        message(4, 3, 'assistant', 'Newer', { output }),
        message(5, 4, 'user', 'q'),
        message(
          6,
          5,
          'assistant',
          '<details type="reasoning" done="false">\n<summary>Thinking…</summary>\n> cut',
          { done: false },
        ),
      ]),
    );
    const [, first, , second, , third] = messages;
    assert.equal(first?.content, 'Before\nAfter <details>of the text</details>');
    assert.equal(first?.reasoning, 'Is 1 < 2?\nYes.\n\nsearch\n\n```\n{"q": 1}\n```\n\n```\nfound > 1\n```');
    assert.deepEqual(
      [second?.content, second?.reasoning],
      ['Newer', 'Hmm\n\nf\n\n```\n{}\n```\n\n```\nr\n```'],
    );
    assert.deepEqual([third?.content, third?.reasoning, third?.status], ['', 'cut', 'incomplete']);
  });

  it('reads early versions with one branch, and ids that are not UUIDs', async () => {
    const messages = [
      { id: 'x', role: 'user', content: 'q' },
      { role: 'assistant', content: 'a', timestamp: SECONDS * 1e9 },
    ];
    const chat = { title: 'T', messages, timestamp: SECONDS * 1000 };
    const first = await only({ id: 'local', chat });
    assert.deepEqual(said(first.messages), [
      ['user', 'q', 'complete'],
      ['assistant', 'a', 'complete'],
    ]);
    assert.equal(first.messages[1]?.timestamp, at(0));
    assert.deepEqual((await only({ id: 'local', chat })).messages, first.messages);
  });
});

describe('a file', () => {
  const one = () => chatGpt([node(1, 0, 'user', 'q')]);
  const errors = async (content: string | Buffer | object, size?: number) =>
    (await entries(content, size)).map(({ line, error }) => [line, error]);

  it('of another program is one error', async () => {
    const UNKNOWN = 'is not an export of this server, of ChatGPT or of Open WebUI';
    const claude = { uuid: ID, name: 'x', chat_messages: [] };
    for (const content of [
      [claude, claude, claude],
      [1, 2],
      'a,b\n1,2\n',
      '<html>\n</html>\n',
      'SQLite format 3\0',
    ])
      assert.deepEqual(await errors(content), [[1, UNKNOWN]]);
    const [[line, zipped] = []] = await errors(
      Buffer.concat([Buffer.from('PK\x03\x04'), Buffer.alloc(9000)]),
    );
    assert.equal(line, 1);
    assert.match(`${zipped}`, /^is a ZIP file: unpack it/);
  });

  it('with invalid items gives an error with the number of each, and the other items', async () => {
    const bad = chatGpt([node(1, 0, 'user', 'q')], { create_time: null, update_time: null });
    const broken = { ...bad, mapping: { a: null } };
    assert.deepEqual(await errors([one(), broken, {}, null, one()]), [
      [1, undefined],
      [2, 'created_at: must be an RFC 3339 time with a zone'],
      [3, 'is not an export of this server, of ChatGPT or of Open WebUI'],
      [4, 'is not an export of this server, of ChatGPT or of Open WebUI'],
      [5, undefined],
    ]);
  });

  it('that is cut anywhere gives what is whole, and one error', async () => {
    const whole = JSON.stringify([one(), one()]);
    const first = JSON.stringify([one()]).length - 1;
    for (let end = 1; end < whole.length; end += 61) {
      const found = await errors(whole.slice(0, end), 100);
      const complete = end >= whole.length - 1 ? 2 : end >= first ? 1 : 0;
      assert.deepEqual(
        found.map(([, error]) => error === undefined),
        [...Array(complete).fill(true), false],
        `${end}`,
      );
    }
  });

  it('is recognized in blocks of any length, with a byte order mark, and with lines of NDJSON', async () => {
    const text = `\uFEFF \n${JSON.stringify([one()], null, 2)}\n`;
    for (const size of [1, 7, 4096, 100_000]) assert.deepEqual(await errors(text, size), [[1, undefined]]);
    assert.deepEqual(await errors('[]'), []);
    assert.deepEqual(await errors(''), []);
    assert.deepEqual(await errors('x\n{"deleted":true}\n'), [
      [1, 'is not JSON'],
      [2, undefined],
    ]);
  });
});

describe('npm run import', () => {
  let folder: ScriptFolder;
  const run = async (content: object | string, ...args: string[]) => {
    const text = typeof content === 'string' ? content : JSON.stringify(content);
    writeFileSync(join(folder.path, 'file'), gzipSync(text));
    const { code, stdout, stderr } = await folder.run('import', 'file', ...args);
    assert.equal(stderr, '');
    return { code, ...JSON.parse(stdout.toString()) };
  };
  before(async () => {
    folder = scriptFolder();
    assert.equal((await folder.run('migrate', 'latest')).code, 0);
  });
  after(() => folder.remove());

  it('imports other files once, copies of chats with ids of their own, and reads its JSON export', async () => {
    const chat = openWebUi([
      message(1, 0, 'user', 'q', { files: [{ type: 'image', url: PNG }] }),
      message(2, 1, 'assistant', 'a'),
    ]);
    const chats = [chat, { ...chat, id: uuid(500) }];
    const first = await run(chats, '--pin');
    assert.deepEqual([first.code, first.imported, first.skipped, first.messages], [0, 2, 0, 4]);
    const second = await run(chats);
    assert.deepEqual([second.code, second.imported, second.skipped], [0, 0, 2]);
    const exported = async () => (await folder.run('export', '--format', 'json')).stdout.toString();
    const conversations = (text: string) => JSON.parse(text).conversations;
    const json = await exported();
    const third = await run(json, '--replace');
    assert.deepEqual([third.code, third.replaced, third.messages], [0, 2, 4]);
    assert.deepEqual(conversations(await exported()), conversations(json));
    const foreign = await run([{ uuid: ID, chat_messages: [] }, {}]);
    assert.deepEqual([foreign.code, foreign.failed, foreign.errors.length], [1, 1, 1]);
  });
});
