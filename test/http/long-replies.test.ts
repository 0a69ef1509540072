import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { SseReplyEncoder } from '../../src/http/sse/reply-encoder.ts';
import { createTextFormat } from '../../src/markdown/index.ts';
import { type ChatServer, startChat } from '../support/chat-server.ts';
import { reply } from '../support/fake-upstream.ts';
import { joined, resumeStream } from '../support/sse-client.ts';
import { type Ticks, ticksDuring } from '../support/ticks.ts';

/** One line, so that it is one paragraph. */
const MARKDOWN = '**a** [b](c) *d* 中文 '.repeat(30_000);
const TEXT = createTextFormat().whole(MARKDOWN);

/** Rendering takes most of the CPU time, which is spread over as many turns as the text has pieces. */
function checkTicks({ count, longest, total }: Ticks): void {
  const pieces = MARKDOWN.length / (16 * 1024);
  assert.ok(count > pieces, `${count} turns of the event loop`);
  assert.ok(longest < total / 4, `the longest of ${count} turns took ${longest} of ${total} ms`);
}

describe('a reply of one line of 570 KB in text form', () => {
  let chat: ChatServer;
  let id: string;

  before(async () => {
    chat = await startChat({ CACHE_TTL_SECONDS: '0' });
    chat.upstream.respond(reply(MARKDOWN));
    id = (await chat.ask({ message: 'a long one', format: 'text' })).message_id;
  });
  after(() => chat.stop());

  it('is rendered as JSON in many turns of the event loop', async () => {
    checkTicks(
      await ticksDuring(async () => {
        const { response } = await chat.ask({ message: 'another', format: 'text' });
        assert.ok(response === TEXT);
      }),
    );
  });

  it('is resumed near its end in many turns of the event loop', async () => {
    const offset = TEXT.length - 1000;
    checkTicks(
      await ticksDuring(async () => {
        const reader = await resumeStream(chat.url, id, { lastEventId: `${id}:${offset}` });
        assert.equal(joined(await reader.rest()), TEXT.slice(offset));
      }),
    );
  });

  it('is encoded one part in each turn of the event loop, from the first turn on', async (t) => {
    const encodeNext = SseReplyEncoder.prototype.next;
    const parts: number[] = [];
    let inThisTurn = 0;
    t.mock.method(SseReplyEncoder.prototype, 'next', function (this: SseReplyEncoder) {
      if (inThisTurn++ === 0) {
        setImmediate(() => {
          parts.push(inThisTurn);
          inThisTurn = 0;
        });
      }
      return encodeNext.call(this);
    });
    const reader = await resumeStream(chat.url, id, { lastEventId: `${id}:${TEXT.length - 1000}` });
    await reader.rest();
    assert.ok(parts.length > 10, `${parts.length} turns`);
    assert.deepEqual(new Set(parts), new Set([1]));
  });

  it('is known to be complete after many turns of the event loop', async () => {
    const headers = { 'last-event-id': `${id}:${TEXT.length}:end` };
    checkTicks(
      await ticksDuring(async () => {
        const { status } = await chat.call('GET', `/api/chat-stream/${id}`, undefined, headers);
        assert.equal(status, 204);
      }),
    );
  });
});
