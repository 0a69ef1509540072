import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, checkedProblem, startChat, until } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  finish,
  type Gate,
  type Handler,
  json,
  raw,
  reasoning,
  reply,
  script,
  thenReset,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { startServer } from '../support/server.ts';
import {
  checkStream,
  joined,
  joinedReasoning,
  openStream,
  resumeStream,
  type SseReader,
  type StreamEvent,
} from '../support/sse-client.ts';
import { type WordListFile, wordListFile } from '../support/word-list.ts';

const REPLY = '# 说明\n\n很**敏感**词，&#25935;感词😀好。\n\n- bad *word*\n';
const TEXT = '说明\n\n很***，***😀好。\n\n- ********';
const MARKDOWN = '# 说明\n\n很**〇〇**〇，〇〇〇😀好。\n\n- 〇〇〇〇*〇〇〇〇*\n';
const BEFORE = { text: '说明\n\n很', markdown: '# 说明\n\n很**' } as const;
const MASKED = { text: TEXT, markdown: MARKDOWN } as const;
const FORMATS = ['text', 'markdown'] as const;
const WORDS = ['敏感词', 'bad word'];

/** One piece of the reply behind each gate, then a good end behind the last. */
function gated(pieces: readonly string[], gates: readonly Gate[]): Handler {
  const steps = gates.flatMap((gate, index) => {
    const piece = pieces[index];
    return [wait(gate), ...(piece === undefined ? [] : [delta(piece)])];
  });
  return script(...steps, finish(), usage(), done());
}

interface Told {
  readonly id: string;
  readonly conversation: string;
  readonly output: string;
  readonly end: StreamEvent;
}

async function toTheEnd(reader: SseReader, before: readonly StreamEvent[] = []): Promise<Told> {
  assert.equal(reader.status, 200);
  const events = [...before, ...(await reader.rest())];
  const end = checkStream(events);
  const { headers } = reader;
  return {
    id: String(headers['x-stream-id']),
    conversation: String(headers['x-conversation-id']),
    output: joined(events),
    end,
  };
}

const told = async (chat: ChatServer, body: object, headers = {}) =>
  toTheEnd(await openStream(chat.url, { message: 'q', ...body }, { headers }));

async function storedReply(chat: ChatServer, id: string) {
  const rows = await chat.rows(id);
  return rows.find(({ role }) => role === 'assistant');
}

/** Resumes at every offset of a stream. */
async function checkEveryPlace(chat: ChatServer, whole: Told, finishReason: string): Promise<void> {
  for (let offset = 0; offset < whole.output.length; offset++) {
    if (/^[\udc00-\udfff]/.test(whole.output.slice(offset))) continue;
    const rest = await toTheEnd(
      await resumeStream(chat.url, whole.id, { lastEventId: `${whole.id}:${offset}` }),
    );
    assert.equal(rest.output, whole.output.slice(offset), `from ${offset}`);
    assert.equal(rest.end.data.finish_reason, finishReason);
    assert.equal(rest.end.data.length, whole.output.length);
  }
  const all = await resumeStream(chat.url, whole.id, { lastEventId: whole.end.id });
  assert.equal(all.status, 204);
}

function suite(action: 'mask' | 'block') {
  const server: { chat: ChatServer; list: WordListFile } = {} as never;
  before(async () => {
    server.list = await wordListFile(...WORDS);
    server.chat = await startChat({
      CONTENT_FILTER_FILE: server.list.path,
      CONTENT_FILTER_OUTPUT: action,
      SSE_OPEN_MS: '600000',
    });
  });
  after(async () => {
    await server.chat.stop();
    server.list.remove();
  });
  return server;
}

describe('replies with masked words', () => {
  const server = suite('mask');

  for (const format of FORMATS) {
    it(`are masked in JSON and in streams, however they are split (${format})`, async () => {
      const { chat } = server;
      chat.upstream.respond(reply(REPLY));
      assert.equal((await chat.ask({ message: 'q', format, cache: false })).response, MASKED[format]);
      for (const chunks of [1, 2, 5, 13, REPLY.length]) {
        chat.upstream.respond([reply(REPLY, { chunks })]);
        const { output, end } = await told(chat, { format, cache: false });
        assert.equal(output, MASKED[format]);
        assert.deepEqual([end.type, end.data.finish_reason], ['done', 'stop']);
      }
    });

    it(`are masked from the cache, in JSON and streams (${format})`, async () => {
      const { chat } = server;
      chat.upstream.respond(reply(REPLY));
      const message = `cached ${format}`;
      await told(chat, { message, format });
      const asked = chat.upstream.requests.length;
      const again = await openStream(chat.url, { message, format });
      assert.match(String(again.headers['cache-status']), /hit/);
      assert.equal((await toTheEnd(again)).output, MASKED[format]);
      const whole = await chat.ask({ message, format });
      assert.deepEqual([whole.cached, whole.response], [true, MASKED[format]]);
      assert.equal(chat.upstream.requests.length, asked);
    });

    it(`resume at any offset with exactly the rest (${format})`, async () => {
      const { chat } = server;
      chat.upstream.respond(reply(REPLY, { chunks: 7 }));
      await checkEveryPlace(chat, await told(chat, { format, cache: false }), 'stop');
    });
  }

  it('are masked on /v1 too, without log probabilities, which would show them', async () => {
    const { chat } = server;
    const logprobs = { content: [{ token: REPLY, logprob: 0 }] };
    const choice = { index: 0, logprobs, finish_reason: 'stop' };
    const message = { role: 'assistant', content: REPLY };
    chat.upstream.respond([
      json({ model: 'm', choices: [{ ...choice, message }] }),
      script(raw(`data: ${JSON.stringify({ choices: [{ ...choice, delta: message }] })}\n\n`), done()),
    ]);
    const messages = [{ role: 'user', content: 'q' }];
    const call = (stream: boolean) => chat.call('POST', '/v1/chat/completions', { messages, stream });
    const whole = JSON.parse((await call(false)).text).choices[0];
    assert.deepEqual([whole.message.content, whole.logprobs], [MASKED.markdown, null]);
    const chunks = (await call(true)).text.split('\n\n').filter((event) => event.startsWith('data: {'));
    const choices = chunks.map((event) => JSON.parse(event.slice(6)).choices[0]);
    assert.equal(choices.map(({ delta }) => delta.content ?? '').join(''), MASKED.markdown);
    assert(choices.every((each) => each.logprobs === null));
  });

  it('are masked when a request is repeated with its key', async () => {
    const { chat } = server;
    chat.upstream.respond(reply(REPLY));
    const headers = { 'idempotency-key': 'masked-1' };
    const first = await told(chat, { message: 'keyed' }, headers);
    const again = await told(chat, { message: 'keyed' }, headers);
    assert.deepEqual([again.id, first.output, again.output], [first.id, TEXT, TEXT]);
  });

  it('send no part of a possible word, and hold back nothing else', async () => {
    const { chat } = server;
    const gates = Array.from({ length: 5 }, createGate);
    chat.upstream.respond([gated(['很敏', '感', '觉。敏', '感词'], gates)]);
    const opening = openStream(chat.url, { message: 'q', cache: false });
    gates[0]?.open();
    const reader = await opening;
    const events = [await reader.until('start')];
    const next = async () => {
      const event = await reader.until('content');
      events.push(event);
      return event.content;
    };
    assert.equal(await next(), '很');
    gates[1]?.open();
    gates[2]?.open();
    assert.equal(await next(), '敏感觉。');
    gates[3]?.open();
    assert.equal(await next(), '***');
    gates[4]?.open();
    assert.equal((await toTheEnd(reader, events)).output, '很敏感觉。***');
  });

  it('can be joined while they run', async () => {
    const { chat } = server;
    const gates = [createGate(), createGate(), createGate()];
    chat.upstream.respond([gated(['很敏', '感词好'], gates)]);
    const opening = openStream(chat.url, { message: 'q', cache: false });
    gates[0]?.open();
    const reader = await opening;
    const events = [await reader.until('start'), await reader.until('content')];
    const id = String(reader.headers['x-stream-id']);
    const second = await resumeStream(chat.url, id, { lastEventId: `${id}:1` });
    gates[1]?.open();
    gates[2]?.open();
    assert.equal((await toTheEnd(reader, events)).output, '很***好');
    assert.equal((await toTheEnd(second)).output, '***好');
  });

  it('are unfiltered in the conversation and its export', async () => {
    const { chat } = server;
    chat.upstream.respond(reply(REPLY));
    const { conversation_id: id } = await chat.ask({ message: 'q', cache: false });
    assert.equal((await chat.read(id)).messages[1]?.content, REPLY);
    const exported = await chat.call('GET', `/api/conversations/${id}/export?format=json`);
    assert.ok(exported.text.includes(JSON.stringify(REPLY)));
  });
});

for (const [action, shown] of [
  ['mask', 'I see 〇〇〇〇〇〇〇〇 here'],
  ['block', 'I see '],
] as const) {
  describe(`reasoning where the action is ${action}`, () => {
    const server = suite(action);

    it('shows no word, in JSON, streams and resumed streams, and decides nothing about the reply', async () => {
      const { chat } = server;
      const thinking = script(
        reasoning('I see bad '),
        reasoning('word here'),
        delta('fine'),
        finish(),
        done(),
      );
      chat.upstream.respond([thinking, thinking]);
      const body = { reasoning: true, cache: false };
      const whole = await chat.ask({ message: 'q', ...body });
      assert.deepEqual([whole.reasoning, whole.response, whole.finish_reason], [shown, 'fine', 'stop']);
      const stream = await openStream(chat.url, { message: 'q', ...body });
      const id = String(stream.headers['x-stream-id']);
      for (const events of [await stream.rest(), await (await resumeStream(chat.url, id)).rest()]) {
        assert.equal(checkStream(events).data.finish_reason, 'stop');
        assert.deepEqual([joinedReasoning(events), joined(events)], [shown, 'fine']);
      }
    });
  });
}

describe('replies with blocked words', () => {
  const server = suite('block');

  for (const format of FORMATS) {
    it(`end before the first word, in JSON and in streams, however they are split (${format})`, async () => {
      const { chat } = server;
      chat.upstream.respond(reply(REPLY));
      const whole = await chat.ask({ message: 'q', format, cache: false });
      assert.deepEqual([whole.response, whole.finish_reason], [BEFORE[format], 'content_filter']);
      for (const chunks of [1, 5, REPLY.length]) {
        chat.upstream.respond([reply(REPLY, { chunks })]);
        const { output, end } = await told(chat, { format, cache: false });
        assert.equal(output, BEFORE[format]);
        assert.deepEqual([end.type, end.data.finish_reason], ['done', 'content_filter']);
        assert.equal(end.data.length, BEFORE[format].length);
      }
    });

    it(`end there from the cache too, and at any offset of a resumed stream (${format})`, async () => {
      const { chat } = server;
      chat.upstream.respond(reply(REPLY));
      const message = `cached ${format}`;
      await told(chat, { message, format });
      const again = await openStream(chat.url, { message, format });
      assert.match(String(again.headers['cache-status']), /hit/);
      const cached = await toTheEnd(again);
      assert.equal(cached.output, BEFORE[format]);
      assert.equal((await chat.ask({ message, format })).finish_reason, 'content_filter');
      await checkEveryPlace(chat, cached, 'content_filter');
    });
  }

  it('end there when a request is repeated with its key', async () => {
    const { chat } = server;
    chat.upstream.respond(reply(REPLY));
    const headers = { 'idempotency-key': 'blocked-1' };
    const first = await told(chat, { message: 'keyed' }, headers);
    const again = await told(chat, { message: 'keyed' }, headers);
    assert.deepEqual([again.id, again.output], [first.id, BEFORE.text]);
    assert.equal(again.end.data.finish_reason, 'content_filter');
    assert.equal((await chat.ask({ message: 'q', format: 'text' })).finish_reason, 'content_filter');
  });

  it('send nothing after that, are generated to their end, and stored completely', async () => {
    const { chat } = server;
    const gates = [createGate(), createGate(), createGate()];
    chat.upstream.respond([gated(['很敏感词', '，好'], gates)]);
    const opening = openStream(chat.url, { message: 'q', cache: false });
    gates[0]?.open();
    const reader = await opening;
    const events = [await reader.until('start'), await reader.until('content')];
    gates[1]?.open();
    gates[2]?.open();
    const { output, conversation, end } = await toTheEnd(reader, events);
    assert.deepEqual([output, end.data.persisted], ['很', true]);
    const row = await storedReply(chat, conversation);
    assert.deepEqual([row?.content, row?.status, row?.finish_reason], ['很敏感词，好', 'complete', 'stop']);
  });

  it('end in an error if the model fails after that, as in the store', async () => {
    const { chat } = server;
    chat.upstream.respond([thenReset('很敏感词', '，好')]);
    const reader = await openStream(chat.url, { message: 'q', cache: false });
    const { output, end, id } = await toTheEnd(reader);
    assert.deepEqual([output, end.type], ['很', 'error']);
    checkedProblem(end.data, 502, 'upstream_incomplete', String(reader.headers['x-request-id']));
    const again = await toTheEnd(await resumeStream(chat.url, id));
    assert.deepEqual([again.output, again.end.data.code], ['很', 'reply_incomplete']);
  });

  it('may be empty', async () => {
    const { chat } = server;
    chat.upstream.respond(reply('敏感词'));
    const { response, finish_reason } = await chat.ask({ message: 'q', cache: false });
    assert.deepEqual([response, finish_reason], ['', 'content_filter']);
    const { output, end } = await told(chat, { cache: false });
    assert.deepEqual([output, end.id.endsWith(':0:end')], ['', true]);
  });
});

describe('a server without a word list', () => {
  it('changes no text, whatever the filter settings', async () => {
    const chat = await startChat({ CONTENT_FILTER_INPUT: 'block', CONTENT_FILTER_STORE: 'filtered' });
    try {
      chat.upstream.respond(reply(REPLY));
      assert.equal((await chat.ask({ message: '敏感词' })).response, REPLY);
    } finally {
      await chat.stop();
    }
  });
});

describe('a word list', () => {
  it('that is invalid prevents the start, and the error quotes no word', async () => {
    const list = await wordListFile('敏感词', 'bad\u0007word');
    const start = (path: string) => startServer({ CONTENT_FILTER_FILE: path });
    await assert.rejects(start(list.path), {
      name: 'StartError',
      message: `CONTENT_FILTER_FILE: ${list.path}, line 3: a control character`,
    });
    list.remove();
    await assert.rejects(start(list.path), {
      name: 'StartError',
      message: `CONTENT_FILTER_FILE: ${list.path} cannot be read (ENOENT)`,
    });
  });

  it('applies after a change from the next reply on; running streams keep their word list', async () => {
    const list = await wordListFile('old');
    const chat = await startChat({ CONTENT_FILTER_FILE: list.path }, { lookAtWordsMs: 20 });
    try {
      const gates = [createGate(), createGate(), createGate()];
      chat.upstream.respond([gated(['old new, ', 'old new'], gates)]);
      const opening = openStream(chat.url, { message: 'q', cache: false });
      gates[0]?.open();
      const reader = await opening;
      const events = [await reader.until('start')];
      await list.save('new');
      chat.upstream.respond(reply('old new'));
      await until('the new list', async () => {
        const { response } = await chat.ask({ message: 'q', format: 'text', cache: false });
        return response === 'old ***';
      });
      const id = String(reader.headers['x-stream-id']);
      const second = await resumeStream(chat.url, id);
      gates[1]?.open();
      gates[2]?.open();
      assert.equal((await toTheEnd(reader, events)).output, '*** new, *** new');
      assert.equal((await toTheEnd(second)).output, '*** new, *** new');
    } finally {
      await chat.stop();
      list.remove();
    }
  });
});
