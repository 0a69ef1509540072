/** What the model server does with one request must not cost other requests, and is repaired where that is possible. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, problemOf, startChat } from '../support/chat-server.ts';
import { reply, status } from '../support/fake-upstream.ts';

describe('a model that keeps failing', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({}, { breaker: { openMinMs: 60_000, openMaxMs: 60_000 } });
    chat.upstream.respond((exchange) => {
      const { model } = exchange.request.body;
      return (model === 'broken' ? status(500) : reply('well'))(exchange);
    });
  });
  after(() => chat.stop());

  it('blocks neither other models nor readiness, which names it', async () => {
    const ask = (model: string) => chat.call('POST', '/api/chat', { message: 'x', model, cache: false });
    const failed = await Promise.all(Array.from({ length: 12 }, () => ask('broken')));
    assert.ok(failed.every((answer) => answer.status >= 502));
    problemOf(await ask('broken'), 503, 'upstream_busy');
    assert.equal((await ask('good')).status, 200);
    const ready = await chat.call('GET', '/health/ready');
    assert.deepEqual([ready.status, JSON.parse(ready.text).open_circuits], [200, ['broken']]);
  });
});
