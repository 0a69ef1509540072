/** A stream of `/v1` that is cut at every byte, before this server and behind it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { OpenAI } from 'openai';
import { type ChatServer, startChat, until } from '../support/chat-server.ts';
import { delta, done, finish, script, usage } from '../support/fake-upstream.ts';
import { checkStream, joined, resumeStream } from '../support/sse-client.ts';

const PIECES = ['Grüße ', '😀 und ', 'Ende\u2028.'];
const WHOLE = PIECES.join('');
const PARALLEL = 16;

/** Calls `run` with every number, several at a time. */
async function forEach(numbers: Iterable<number>, run: (n: number) => Promise<void>): Promise<void> {
  const left = [...numbers];
  const worker = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await run(next);
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
}

/** A chunk with as little as possible. */
const short = (choice: object) => `data: ${JSON.stringify({ choices: [choice] })}\n\n`;

/** Around the borders of the events, and every byte of the one with a character of four bytes. */
function cutsOf(stream: Buffer, everyByte: boolean): Set<number> {
  const cuts = new Set([0, stream.length]);
  const end = stream.indexOf('\n\n', stream.indexOf('😀'));
  const start = everyByte ? stream.lastIndexOf('\n\n', end - 1) : end;
  for (let at = start; at <= end; at += 1) cuts.add(at);
  for (let at = stream.indexOf('\n\n'); at >= 0; at = stream.indexOf('\n\n', at + 2))
    for (const near of [0, 1, 2, 3]) cuts.add(at + near);
  return cuts;
}

/** The text in the events that came whole. */
function textOf(received: string): string {
  const events = received.split('\n\n').slice(0, -1);
  return events
    .filter((event) => event.startsWith('data: {'))
    .map((event) => JSON.parse(event.slice(6)).choices?.[0]?.delta.content ?? '')
    .join('');
}

describe('a stream of the model server that is cut at every byte', () => {
  const body = Buffer.from(
    [...PIECES.map((content) => short({ delta: { content } })), short({ finish_reason: 'stop' })].join(''),
  );
  let chat: ChatServer;
  let client: OpenAI;
  before(async () => {
    chat = await startChat({ MAX_GENERATIONS: '100' });
    client = new OpenAI({ baseURL: `${chat.url}/v1`, apiKey: 'none', maxRetries: 0 });
    chat.upstream.respond((exchange) => {
      const at = Number(exchange.request.body.messages[0]?.content);
      const write = async () => {
        if (at > 0) await new Promise((resolve) => exchange.response.write(body.subarray(0, at), resolve));
      };
      return script(write, ({ response }) => void response.destroy())(exchange);
    });
  });
  after(() => chat.stop());

  it('is an error for the openai package, after the text that is stored', async () => {
    const ends = { refused: 0, broken: 0, whole: 0 };
    await forEach(Array(body.length + 1).keys(), async (at) => {
      let text = '';
      let id: string | null = null;
      let reason: unknown;
      try {
        const { data, response } = await client.chat.completions
          .create({ model: 'm', messages: [{ role: 'user', content: String(at) }], stream: true })
          .withResponse();
        id = response.headers.get('x-conversation-id');
        for await (const { choices } of data) {
          text += choices[0]?.delta.content ?? '';
          reason = choices[0]?.finish_reason ?? reason;
        }
        assert.equal(text, WHOLE);
        assert.equal(reason, 'stop');
        ends.whole += 1;
      } catch (error) {
        assert(error instanceof OpenAI.APIError, `${at}: ${error}`);
        assert.match(error.code ?? '', /^upstream_/);
        assert(WHOLE.startsWith(text));
        ends[id === null ? 'refused' : 'broken'] += 1;
      }
      if (id === null) return assert.equal(text, '');
      // A failed reply without text is not stored. A slow one may be open before it fails.
      assert.equal((await chat.rows(id))[1]?.content ?? '', text);
    });
    assert(ends.refused > 0 && ends.broken > 0 && ends.whole > 0, JSON.stringify(ends));
  });
});

for (const end of ['cancel', 'continue'] as const) {
  describe(`a stream that its caller leaves at every byte, with V1_ON_DISCONNECT=${end},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({ V1_ON_DISCONNECT: end, MAX_GENERATIONS: '100' });
      // Each piece is an event of its own.
      const pieces = PIECES.flatMap((piece) => [delta(piece), () => new Promise<void>(setImmediate)]);
      chat.upstream.respond(script(...pieces, finish(), usage(), done()));
    });
    after(() => chat.stop());

    const open = async () => {
      const outgoing = request(`${chat.url}/v1/chat/completions`, {
        method: 'POST',
        agent: false,
        headers: { 'content-type': 'application/json' },
      });
      outgoing.end(JSON.stringify({ stream: true, messages: [{ role: 'user', content: 'Hello' }] }));
      outgoing.on('error', () => {});
      const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
      response.on('error', () => {});
      return response;
    };
    /** Reads so many bytes at most, and then leaves. */
    const read = async (response: IncomingMessage, bytes: number) => {
      let received = Buffer.alloc(0);
      for await (const piece of response) {
        received = Buffer.concat([received, piece]);
        if (received.length >= bytes) break;
      }
      response.destroy();
      return received.subarray(0, bytes).toString('utf8');
    };

    it('has text that the stored one begins with, and is resumed to the byte', async () => {
      const whole = await read(await open(), Number.POSITIVE_INFINITY);
      assert.equal(textOf(whole), WHOLE);
      await forEach(cutsOf(Buffer.from(whole), end === 'continue'), async (bytes) => {
        const response = await open();
        const id = String(response.headers['x-stream-id']);
        const text = textOf(await read(response, bytes));
        const resumed = await resumeStream(chat.url, id, { lastEventId: `${id}:${text.length}` });
        const events = await resumed.rest();
        const { type, data } = checkStream(events);
        const all = text + joined(events);
        assert.equal(type, 'done', `${bytes}`);
        if (end === 'continue') assert.equal(all, WHOLE);
        else assert(WHOLE.startsWith(all) && (all === WHOLE || data.finish_reason === 'cancelled'));
        const conversation = String(response.headers['x-conversation-id']);
        await until('the end of the reply', async () => {
          const [, row] = await chat.rows(conversation);
          return row?.status !== 'streaming' && row?.content === all;
        });
      });
    });
  });
}
