import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { createTextFormat } from '../../src/markdown/index.ts';
import {
  type ChatServer,
  checkedProblem,
  databases,
  problemOf,
  startChat,
  until,
} from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  finish,
  type Gate,
  type Handler,
  reply,
  script,
  silence,
  thenReset,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { type Pair, startPair } from '../support/pair.ts';
import {
  checkStream,
  joined,
  openStream,
  resumeStream,
  type SseReader,
  type StreamEvent,
} from '../support/sse-client.ts';

const MARKDOWN = [
  '# Überschrift 标题\n\n**注意：**请先😀保存 `snake_case`，见[文档](https://x.example/a_b)。\n\n',
  '- *two*\n- 👨‍👩‍👧\n\n1. first\n\n> quoted **words**\n\n',
  '| a | b |\n|---|---|\n| 𠮷 | 2 ** 3 |\n\n```js\nconst x = `**not bold**`;\n```\n\n---\n\nThe end 😀',
].join('');
const OUTPUTS = { markdown: MARKDOWN, text: createTextFormat().whole(MARKDOWN) } as const;
const FORMATS = ['markdown', 'text'] as const;

interface Told {
  readonly id: string;
  readonly conversation: string;
  readonly output: string;
  readonly end: StreamEvent;
}

/** A stream read from its first event to its last. */
async function toTheEnd(reader: SseReader, before: readonly StreamEvent[] = []): Promise<Told> {
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

async function told(chat: ChatServer, body: object): Promise<Told> {
  return toTheEnd(await openStream(chat.url, { message: 'q', cache: false, ...body }));
}

const resumed = (chat: ChatServer, id: string, lastEventId?: string) =>
  resumeStream(chat.url, id, lastEventId === undefined ? {} : { lastEventId });

/** Reads what a reader gets that has `offset` units, and checks that it is exactly the rest. */
async function checkRest(reader: SseReader, whole: Told, offset: number): Promise<void> {
  assert.equal(reader.status, 200);
  const events = await reader.rest();
  const [start] = events;
  const end = events.at(-1);
  const { output, id } = whole;
  assert.equal(start?.id, `${id}:${offset}`);
  assert.equal(start?.data.offset, offset);
  assert.equal(end?.id, `${id}:${output.length}:end`);
  assert.deepEqual([end?.type, end?.data], [whole.end.type, whole.end.data]);
  if (insidePair(output, offset)) {
    // No event ever ended there. What follows the torn character is whole.
    assert.equal(joined(events), output.slice(offset + 1));
    return;
  }
  checkStream(events);
  assert.equal(joined(events), output.slice(offset));
}

const insidePair = (text: string, at: number) => !text.slice(at).isWellFormed();

const offsetsOf = (text: string) => Array.from({ length: text.length + 1 }, (_, offset) => offset);

/** Runs them in parts, so that not all connections are open at the same time. */
async function inParts<T>(all: readonly T[], size: number, run: (part: T[]) => Promise<unknown>) {
  for (let from = 0; from < all.length; from += size) await run(all.slice(from, from + size));
}

/** The reply in pieces of some characters, with a gate before the one that begins at about `at`. */
function interrupted(text: string, gate: Gate, at = text.length / 2): Handler {
  const pieces = text.match(/.{1,7}/gsu) ?? [];
  const first = Math.ceil(at / 7);
  const say = (list: string[]) => list.map((piece) => delta(piece));
  return script(
    ...say(pieces.slice(0, first)),
    wait(gate),
    ...say(pieces.slice(first)),
    finish(),
    usage(),
    done(),
  );
}

describe('the sample of these tests', () => {
  it('has what makes offsets difficult, in either format', () => {
    for (const format of FORMATS) {
      const output = OUTPUTS[format];
      assert(offsetsOf(output).filter((at) => insidePair(output, at)).length >= 5);
    }
    assert.notEqual(OUTPUTS.text.length, MARKDOWN.length);
    assert.doesNotMatch(OUTPUTS.text, /```|\*\*注意/);
  });
});

for (const place of databases()) {
  describe(`a stream is resumed, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({ ...(await place.create()), SSE_OPEN_MS: '600000' });
      chat.upstream.respond(reply(MARKDOWN, { chunks: 30 }));
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });

    for (const format of FORMATS) {
      it(`at every offset of a stored reply, as ${format}`, async () => {
        const whole = await told(chat, { format });
        assert.equal(whole.output, OUTPUTS[format]);
        await inParts(offsetsOf(whole.output), 40, (part) =>
          Promise.all(
            part.map(async (offset) =>
              checkRest(await resumed(chat, whole.id, `${whole.id}:${offset}`), whole, offset),
            ),
          ),
        );
      });

      it(`at every offset of a running reply, as ${format}`, async () => {
        // Of what is in memory: on the other databases a sample of it.
        const step = place.name === 'SQLite' ? 1 : 9;
        const offsets = offsetsOf(OUTPUTS[format]).filter((at) => at % step === 0);
        await inParts(offsets, 100, async (part) => {
          const gate = createGate();
          chat.upstream.respond([interrupted(MARKDOWN, gate)]);
          const first = await openStream(chat.url, { message: 'live', format, cache: false });
          const id = String(first.headers['x-stream-id']);
          const readers = await Promise.all(part.map((offset) => resumed(chat, id, `${id}:${offset}`)));
          gate.open();
          const whole = await toTheEnd(first);
          assert.equal(whole.output, OUTPUTS[format]);
          await Promise.all(part.map((offset, n) => checkRest(readers[n] as SseReader, whole, offset)));
        });
      });
    }

    it('with exactly these headers and this first event', async () => {
      const { id, conversation } = await told(chat, { message: 'exactly' });
      const reader = await resumed(chat, id, `${id}:3`);
      const { headers } = reader;
      const start = await reader.next();
      reader.leave();
      assert.equal(headers['content-type'], 'text/event-stream; charset=utf-8');
      assert.equal(headers['cache-control'], 'no-cache, no-transform');
      assert.equal(headers['x-accel-buffering'], 'no');
      assert.equal(headers['x-conversation-id'], conversation);
      assert.equal(headers['x-stream-id'], id);
      assert.equal(headers['cache-status'], undefined);
      assert.equal(headers['idempotent-replayed'], undefined);
      assert.equal(start?.raw.split('\ndata: ')[0], `retry: 3000\nevent: start\nid: ${id}:3`);
      assert.deepEqual(start?.data, {
        content: '',
        conversation_id: conversation,
        stream_id: id,
        message_id: id,
        question_id: (await chat.rows(conversation))[0]?.uid,
        model: 'fake-model',
        format: 'text',
        cached: false,
        offset: 3,
      });
    });

    it('from the start without a position', async () => {
      const whole = await told(chat, { format: 'markdown' });
      await checkRest(await resumed(chat, whole.id), whole, 0);
    });

    it('of a JSON reply too, in its own format', async () => {
      for (const format of FORMATS) {
        const answer = await chat.ask({ message: 'whole', format, cache: false });
        const reader = await resumed(chat, answer.message_id, `${answer.message_id}:10`);
        const events = await reader.rest();
        checkStream(events);
        assert.equal(events[0]?.data.format, format);
        assert.equal(joined(events), answer.response.slice(10));
      }
    });

    it('of a cached reply too', async () => {
      await told(chat, { message: 'twice', cache: true });
      const whole = await told(chat, { message: 'twice', cache: true });
      await checkRest(await resumed(chat, whole.id, `${whole.id}:20`), whole, 20);
    });

    it('to the same end when it failed, with its text', async () => {
      const said = ['**Half** of ', 'a 😀 repl'];
      chat.upstream.respond([thenReset(...said)]);
      const { id, output } = await told(chat, { format: 'markdown' });
      for (const offset of [0, 9, output.length]) {
        const reader = await resumed(chat, id, `${id}:${offset}`);
        const events = await reader.rest();
        const end = checkStream(events);
        assert.equal(joined(events), said.join('').slice(offset));
        assert.equal(end.data.finish_reason, 'error');
        const { instance } = checkedProblem(
          end.data,
          502,
          'reply_incomplete',
          String(reader.headers['x-request-id']),
        );
        assert.equal(instance, `/api/chat-stream/${id}`);
      }
    });

    it('to reply_cut and the stored length, by a reader that has more than is stored', async () => {
      for (const format of FORMATS) {
        const { id, output } = await told(chat, { format });
        for (const offset of [output.length + 1, output.length + 5000, 9_999_999_999]) {
          const reader = await resumed(chat, id, `${id}:${offset}`);
          const events = await reader.rest();
          const end = checkStream(events);
          checkedProblem(end.data, 502, 'reply_cut', String(reader.headers['x-request-id']));
          assert.deepEqual([end.data.length, end.id], [output.length, `${id}:${output.length}:end`]);
          assert.equal(joined(events), '');
        }
      }
    });
  });
}

describe('GET /api/chat-stream/{id}', () => {
  const shift = { ms: 0 };
  let chat: ChatServer;
  let whole: Told;
  before(async () => {
    const clock = { now: () => Date.now() + shift.ms };
    chat = await startChat({ SSE_OPEN_MS: '600000', SSE_HEARTBEAT_MS: '20' }, { clock });
    chat.upstream.respond(reply(MARKDOWN, { chunks: 30 }));
    whole = await told(chat, { format: 'markdown' });
  });
  after(() => chat.stop());

  it('is 204 for a reader that has everything', async () => {
    const { id, output } = whole;
    const last = `${id}:${output.length}:end`;
    assert.equal(last, whole.end.id);
    for (const options of [{ lastEventId: last }, { query: `last_event_id=${last}` }]) {
      const reader = await resumeStream(chat.url, id, options);
      assert.equal(reader.status, 204);
      assert.equal(reader.headers['content-type'], undefined);
      assert.deepEqual(await reader.rest(), []);
    }
  });

  it('sends the end again to a reader that has the text but not the end', async () => {
    await checkRest(
      await resumed(chat, whole.id, `${whole.id}:${whole.output.length}`),
      whole,
      whole.output.length,
    );
  });

  it('is not 204 after an early end of a reply that continued', async () => {
    // As when others took its writer for dead and told its readers so.
    await checkRest(await resumed(chat, whole.id, `${whole.id}:7:end`), whole, 7);
    const gate = createGate();
    chat.upstream.respond([interrupted(MARKDOWN, gate)]);
    const first = await openStream(chat.url, { message: 'on', format: 'markdown', cache: false });
    const id = String(first.headers['x-stream-id']);
    const reader = await resumed(chat, id, `${id}:7:end`);
    gate.open();
    await checkRest(reader, await toTheEnd(first), 7);
  });

  it('takes the position from the query too; the header has priority', async () => {
    const { id } = whole;
    await checkRest(await resumeStream(chat.url, id, { query: `last_event_id=${id}:12` }), whole, 12);
    await checkRest(await resumeStream(chat.url, id, { query: `last_event_id=${id}%3A12` }), whole, 12);
    const both = { lastEventId: `${id}:5`, query: `last_event_id=${id}:12` };
    await checkRest(await resumeStream(chat.url, id, both), whole, 5);
    // Even an invalid query: EventSource keeps its URL when it reconnects.
    const stale = { lastEventId: `${id}:5`, query: 'last_event_id=nonsense' };
    await checkRest(await resumeStream(chat.url, id, stale), whole, 5);
  });

  it('accepts ids in upper case, and returns lower case', async () => {
    const { id } = whole;
    const upper = id.toUpperCase();
    await checkRest(await resumeStream(chat.url, upper, { lastEventId: `${upper}:5` }), whole, 5);
    await checkRest(await resumeStream(chat.url, upper, { query: `last_event_id=${id}:5` }), whole, 5);
    await checkRest(await resumeStream(chat.url, id, { lastEventId: `${upper}:5` }), whole, 5);
    assert.equal((await resumed(chat, upper, whole.end.id.toUpperCase().replace('END', 'end'))).status, 204);
  });

  it('rejects what is not an event id of this stream', async () => {
    const { id } = whole;
    const malformed = [
      '',
      ':',
      '5',
      id,
      `${id}:`,
      `${id}:-1`,
      `${id}:+1`,
      `${id}:1.5`,
      `${id}:1e3`,
      `${id}:0x10`,
      `${id}:٥`,
      `${id}:12345678901`,
      `${id}:${'9'.repeat(400)}`,
      `${id}:NaN`,
      `${id}:end`,
      `${id}:5:`,
      `${id}:5:ende`,
      `${id}:5:end:end`,
      `${id}:5 :end`,
      `${id}::5`,
      `${id}%3A5`,
      `${crypto.randomUUID()}:5`,
      `${id.replaceAll('-', '')}:5`,
      `x${id}:5`,
      `${id.slice(1)}:5`,
    ];
    for (const text of malformed) {
      const told = [chat.call('GET', `/api/chat-stream/${id}?last_event_id=${encodeURIComponent(text)}`)];
      if (/^[\x20-\x7e]*$/.test(text)) {
        told.push(chat.call('GET', `/api/chat-stream/${id}`, undefined, { 'last-event-id': text }));
      }
      for (const [n, answer] of (await Promise.all(told)).entries()) {
        const { errors } = problemOf(answer, 400, 'validation');
        assert.deepEqual(
          errors?.map(({ path }) => path),
          [n === 0 ? 'last_event_id' : 'Last-Event-ID'],
          text,
        );
      }
    }
  });

  it('rejects a repeated position', async () => {
    const { id } = whole;
    const twice = [`${id}:5`, `${id}:5`];
    const header = await resumeStream(chat.url, id, { lastEventId: twice });
    assert.equal(header.status, 400);
    assert.equal((await header.json()).code, 'validation');
    const query = await chat.call(
      'GET',
      `/api/chat-stream/${id}?last_event_id=${twice.join('&last_event_id=')}`,
    );
    problemOf(query, 400, 'validation');
  });

  it('rejects a malformed stream id', async () => {
    for (const id of [
      'x',
      whole.id.slice(1),
      `${whole.id}0`,
      `${whole.id}:5`,
      'export-all',
      '%00',
      '..%2f',
    ]) {
      const answer = await chat.call('GET', `/api/chat-stream/${id}`);
      assert.equal(answer.status, 400, id);
    }
  });

  it('is 404 for an unknown stream, a question and a conversation', async () => {
    const [question] = await chat.rows(whole.conversation);
    for (const id of [crypto.randomUUID(), question?.uid, whole.conversation]) {
      const answer = await chat.call('GET', `/api/chat-stream/${id}`);
      assert.equal(problemOf(answer, 404, 'stream_not_found').instance, `/api/chat-stream/${id}`);
      problemOf(
        await chat.call('GET', `/api/chat-stream/${id}?last_event_id=${id}:5:end`),
        404,
        'stream_not_found',
      );
    }
  });

  it('is 404 when the conversation was deleted', async () => {
    const { id, conversation, end } = await told(chat, { message: 'away with it' });
    assert.equal((await chat.call('DELETE', `/api/conversations/${conversation}`)).status, 200);
    for (const query of ['', `?last_event_id=${id}:3`, `?last_event_id=${end.id}`]) {
      problemOf(await chat.call('GET', `/api/chat-stream/${id}${query}`), 404, 'stream_not_found');
    }
  });

  it('is 404 when the conversation has expired', async (t) => {
    const { id, conversation } = await told(chat, { message: 'old' });
    t.after(() => {
      shift.ms = 0;
    });
    shift.ms = 23 * 3_600_000;
    assert.equal((await resumed(chat, id)).status, 200);
    shift.ms = 24 * 3_600_000 + 60_000;
    problemOf(await chat.call('GET', `/api/chat-stream/${id}`), 404, 'stream_not_found');
    problemOf(await chat.call('GET', `/api/conversations/${conversation}`), 404, 'conversation_not_found');
  });

  it('answers HEAD with the same headers, of a running reply too', async () => {
    const { id, end } = whole;
    const gate = createGate();
    chat.upstream.respond([interrupted(MARKDOWN, gate)]);
    const first = await openStream(chat.url, { message: 'head', cache: false });
    for (const stream of [id, String(first.headers['x-stream-id'])]) {
      const { headers } = await resumed(chat, stream).then((reader) => {
        reader.leave();
        return reader;
      });
      const head = await chat.call('HEAD', `/api/chat-stream/${stream}`);
      assert.deepEqual([head.status, head.text], [200, '']);
      for (const name of ['content-type', 'cache-control', 'x-stream-id', 'x-conversation-id']) {
        assert.equal(head.headers[name], headers[name]);
      }
    }
    gate.open();
    await first.rest();
    const ended = await chat.call('HEAD', `/api/chat-stream/${id}`, undefined, { 'last-event-id': end.id });
    assert.equal(ended.status, 204);
    assert.equal((await chat.call('HEAD', `/api/chat-stream/${crypto.randomUUID()}`)).status, 404);
  });

  it('is 405 with the allowed methods for others', async () => {
    for (const method of ['POST', 'PUT', 'PATCH']) {
      const answer = await chat.call(method, `/api/chat-stream/${whole.id}`, {});
      problemOf(answer, 405, 'method_not_allowed');
      assert.equal(answer.headers.allow, 'GET, HEAD, DELETE, OPTIONS');
    }
  });

  it('opens immediately and sends pings before the first token', async () => {
    const gate = createGate();
    chat.upstream.respond([interrupted(MARKDOWN, gate, 0)]);
    const conversation = crypto.randomUUID();
    const body = { message: 'wait', format: 'markdown', conversation_id: conversation, cache: false };
    const first = openStream(chat.url, body);
    const row = await until('the row of the reply', async () => (await chat.rows(conversation))[1]);
    const reader = await resumed(chat, row.uid);
    const events = [await reader.next(), await reader.next(), await reader.next()];
    assert.deepEqual(
      events.map((event) => event?.type),
      ['start', 'ping', 'ping'],
    );
    gate.open();
    const all = [...events, ...(await reader.rest())].filter((event) => event !== undefined);
    checkStream(all);
    assert.equal(joined(all), MARKDOWN);
    await (await first).rest();
  });

  it('waits until the reply is past the reader’s position, and sends only the rest', async () => {
    const gate = createGate();
    chat.upstream.respond([interrupted(MARKDOWN, gate, 21)]);
    const first = await openStream(chat.url, { message: 'ahead', format: 'markdown', cache: false });
    const id = String(first.headers['x-stream-id']);
    const reader = await resumed(chat, id, `${id}:50`);
    const events = [await reader.next(), await reader.next()];
    assert.deepEqual(
      events.map((event) => event?.type),
      ['start', 'ping'],
    );
    gate.open();
    const next = await reader.until('content');
    assert.equal(next.content, MARKDOWN.slice(50, 50 + next.content.length));
    reader.leave();
    await first.rest();
  });

  it('serves many readers of one running reply, each from its position and at its pace', async () => {
    const long = MARKDOWN.repeat(400);
    const gate = createGate();
    chat.upstream.respond([interrupted(long, gate)]);
    const body = { message: 'many', format: 'markdown', cache: false };
    const first = await openStream(chat.url, body);
    const id = String(first.headers['x-stream-id']);
    // The slow one reads nothing until the reply has been made and saved.
    const slow = await resumed(chat, id);
    const [one, two] = await Promise.all([resumed(chat, id, `${id}:1000`), resumed(chat, id, `${id}:50000`)]);
    const leaver = await resumed(chat, id);
    await leaver.until('content');
    leaver.leave();
    gate.open();
    const [told, ...rests] = await Promise.all([toTheEnd(first), one.rest(), two.rest()]);
    assert.equal(told.output, long);
    const all = [...rests, await slow.rest()];
    for (const [n, from] of [1000, 50_000, 0].entries()) {
      const events = all[n] ?? [];
      assert.deepEqual(checkStream(events).data, told.end.data);
      assert(joined(events) === long.slice(from), `the reader from ${from}`);
    }
    assert.equal((await chat.rows(told.conversation))[1]?.content, long);
  });

  it('lets a browser of another origin send Last-Event-ID', async () => {
    const answer = await chat.call('OPTIONS', `/api/chat-stream/${whole.id}`, undefined, {
      origin: 'http://localhost:3000',
      'access-control-request-method': 'GET',
      'access-control-request-headers': 'last-event-id',
    });
    assert.equal(answer.status, 204);
    assert.equal(answer.headers['access-control-allow-origin'], 'http://localhost:3000');
    assert.match(String(answer.headers['access-control-allow-headers']), /last-event-id/i);
  });
});

for (const place of databases()) {
  describe(`a reply of another server, on ${place.name},`, () => {
    let pair: Pair;
    before(async () => {
      pair = await startPair(place, { SSE_OPEN_MS: '600000', SSE_HEARTBEAT_MS: '50', CHECKPOINT_MS: '50' });
    });
    after(() => pair.stop());

    for (const format of FORMATS) {
      it(`is followed to the same end, as ${format}, from anywhere`, async () => {
        const { a, b } = pair;
        const gate = createGate();
        a.upstream.respond([interrupted(MARKDOWN, gate)]);
        const first = await openStream(a.url, { message: 'over there', format, cache: false });
        const id = String(first.headers['x-stream-id']);
        const offsets = [0, 1, 30, 100, OUTPUTS[format].length];
        const readers = await Promise.all(offsets.map((offset) => resumed(b, id, `${id}:${offset}`)));
        // Something of it comes over before it has ended.
        const early = await resumed(b, id);
        const events = [await early.until('start'), await early.until('content')];
        gate.open();
        const whole = await toTheEnd(first);
        assert.equal(whole.output, OUTPUTS[format]);
        await Promise.all(offsets.map((offset, n) => checkRest(readers[n] as SseReader, whole, offset)));
        events.push(...(await early.rest()));
        assert.deepEqual(checkStream(events).data, whole.end.data);
        assert.equal(joined(events), whole.output);
        // And from the store, when it has ended.
        await checkRest(await resumed(b, id, `${id}:9`), whole, 9);
        assert.equal((await resumed(b, id, whole.end.id)).status, 204);
      });
    }

    it('that fails ends with an error there too', async () => {
      const { a, b } = pair;
      const gate = createGate();
      a.upstream.respond([script(delta('Half 😀'), wait(gate), ({ response }) => void response.destroy())]);
      const first = await openStream(a.url, { message: 'breaks', format: 'markdown', cache: false });
      const id = String(first.headers['x-stream-id']);
      const reader = await resumed(b, id);
      gate.open();
      const events = await reader.rest();
      const end = checkStream(events);
      assert.deepEqual([end.type, end.data.code, joined(events)], ['error', 'reply_incomplete', 'Half 😀']);
      await first.rest();
    });

    it('ends soon when it is deleted through the other, although it has no new text', async () => {
      const { a, b } = pair;
      const number = a.upstream.requests.length + 1;
      a.upstream.respond([script(delta('some '), silence())]);
      const first = await openStream(a.url, { message: 'silent', format: 'markdown', cache: false });
      const { 'x-stream-id': id, 'x-conversation-id': conversation } = first.headers;
      await until('what was said to be stored', async () => {
        const [, row] = await b.rows(String(conversation));
        return row?.content === 'some ';
      });
      assert.equal((await b.call('DELETE', `/api/conversations/${conversation}`)).status, 200);
      const end = (await first.rest()).at(-1);
      assert.deepEqual([end?.type, end?.data.code], ['error', 'conversation_not_found']);
      await a.upstream.waitForClosed(number);
      problemOf(await a.call('GET', `/api/chat-stream/${id}`), 404, 'stream_not_found');
    });

    it('ends everywhere with conversation_not_found when it is deleted through the other', async () => {
      const { a, b } = pair;
      const gate = createGate();
      const number = a.upstream.requests.length + 1;
      a.upstream.respond([script(delta('some '), wait(gate), delta('more'), silence())]);
      const first = await openStream(a.url, { message: 'secret', format: 'markdown', cache: false });
      const id = String(first.headers['x-stream-id']);
      const conversation = String(first.headers['x-conversation-id']);
      const other = await resumed(b, id);
      await other.until('content');
      assert.equal((await b.call('DELETE', `/api/conversations/${conversation}`)).status, 200);
      // The next word is the moment at which its server learns of it.
      gate.open();
      for (const reader of [first, other]) {
        const end = (await reader.rest()).at(-1);
        assert.deepEqual([end?.type, end?.data.code], ['error', 'conversation_not_found']);
      }
      await a.upstream.waitForClosed(number);
      for (const server of [a, b]) {
        problemOf(await server.call('GET', `/api/chat-stream/${id}`), 404, 'stream_not_found');
        problemOf(
          await server.call('GET', `/api/conversations/${conversation}`),
          404,
          'conversation_not_found',
        );
        assert.deepEqual(await server.rows(conversation), []);
      }
    });
  });
}
