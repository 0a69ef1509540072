/** That exports and chats of a server share one pace, by which chats go first. How much first is a unit test's. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ExportThrottle } from '../../src/services/exports/throttle.ts';
import { databases, startChat } from '../support/chat-server.ts';
import { made } from '../support/export-jobs.ts';

for (const place of databases()) {
  describe(`the pace of a server on ${place.name}`, () => {
    it('hears of each chat, and every export goes by it', async (t) => {
      const chatted = t.mock.method(ExportThrottle.prototype, 'noteChat');
      const worked = t.mock.method(ExportThrottle.prototype, 'throttle');
      const chat = await startChat(await place.create());
      t.after(async () => {
        await chat.stop();
        await place.drop();
      });
      const callers = () => [...chatted.mock.calls, ...worked.mock.calls].map((call) => call.this);

      for (const path of ['/api/chat', '/api/chat-stream']) {
        assert.equal((await chat.call('POST', path, { message: path })).status, 200);
      }
      assert.deepEqual([chatted.mock.callCount(), worked.mock.callCount()], [2, 0]);

      await chat.call('GET', '/api/conversations/export-all?format=csv');
      assert.deepEqual([chatted.mock.callCount(), worked.mock.callCount()], [2, 1]);

      await made(chat.url, { format: 'ndjson' });
      assert.deepEqual([chatted.mock.callCount(), worked.mock.callCount()], [2, 2]);
      assert.equal(new Set(callers()).size, 1, 'they have one pace');
    });
  });
}
