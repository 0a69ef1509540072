import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { v7 } from 'uuid';
import { type ChatServer, databases, startChat } from '../support/chat-server.ts';
import { ticksDuring } from '../support/ticks.ts';

const MESSAGES = 60;
const SIZE = 512 * 1024;
const PAGE = 4 * 1024 * 1024;

for (const place of databases()) {
  describe(`a conversation of large messages, on ${place.name},`, () => {
    let chat: ChatServer;
    let id: string;

    before(async () => {
      chat = await startChat(await place.create());
      id = (await chat.ask({ message: 'a first one' })).conversation_id;
      const { knex } = chat.server.database;
      for (let n = 0; n < MESSAGES; n++) {
        await knex('messages').insert({
          uid: v7(),
          conversation_id: id,
          seq: 3 + n,
          role: 'user',
          content: `${n} ${'中'.repeat(SIZE / 3)}`,
          timestamp: '2026-01-01 00:00:00.000',
          status: 'complete',
          updated_at: '2026-01-01 00:00:00.000',
        });
      }
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });

    it('is read in pages of about 4 MiB, whatever the limit', async () => {
      const contents: string[] = [];
      for (let query = '?limit=1000'; ; ) {
        const page = await chat.read(id, query);
        const bytes = page.messages.reduce((sum, { content }) => sum + Buffer.byteLength(content), 0);
        assert.ok(bytes <= PAGE && page.messages.length > 0);
        contents.push(...page.messages.map(({ content }) => content));
        if (!page.has_more) break;
        query = `?limit=1000&cursor=${page.next_cursor}`;
      }
      assert.deepEqual(
        contents.slice(2).map((content) => Number.parseInt(content, 10)),
        Array.from({ length: MESSAGES }, (_, n) => n),
      );
    });

    it('blocks /health for none of its pages', async (t) => {
      let answers = 0;
      const { longest } = await ticksDuring(async () => {
        const pages = Promise.all([1, 2, 3].map(() => chat.read(id, '?limit=1000')));
        let isOver = false;
        void pages.finally(() => {
          isOver = true;
        });
        for (; !isOver; answers += 1) assert.equal((await chat.call('GET', '/health')).status, 200);
        await pages;
      });
      t.diagnostic(`${answers} answers of /health, ${longest.toFixed()} ms blocked`);
      // All messages in one page take seven times as long.
      assert.ok(answers > 1 && longest < 200, `${answers} answers, blocked for ${longest} ms`);
    });

    it('has at least one message in each page, also one that is larger than a page', async () => {
      const { knex } = chat.server.database;
      await knex('messages')
        .where({ conversation_id: id })
        .update({ content: 'x'.repeat(PAGE + 1) })
        .whereIn(
          'uid',
          (await chat.rows(id)).slice(0, 2).map(({ uid }) => uid),
        );
      const page = await chat.read(id, '?limit=10');
      assert.deepEqual([page.messages.length, page.has_more], [1, true]);
    });
  });
}
