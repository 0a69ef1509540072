/** Search of conversations. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { conversationList } from '../../src/http/schemas/conversations.ts';
import { type ChatServer, databases, problemOf, shaped, startChat } from '../support/chat-server.ts';
import { store, storedConversation } from '../support/export-data.ts';
import { bodyOf } from '../support/keys.ts';
import { ticksDuring } from '../support/ticks.ts';

for (const place of databases()) {
  describe(`search, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({ ...(await place.create()), CONVERSATION_TTL_HOURS: '0', HISTORY_LIMIT: '0' });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const page = async (q: string, more = '') =>
      shaped(
        conversationList,
        await chat.call('GET', `/api/conversations?q=${encodeURIComponent(q)}${more}`),
      );
    const idsOf = async (q: string, more = '') =>
      (await page(q, more)).conversations.map(({ conversation_id }) => conversation_id);
    /** All pages. */
    const every = async (q: string, limit: number) => {
      const ids: string[] = [];
      for (let cursor = ''; ; ) {
        const { conversations, next_cursor } = await page(q, `&limit=${limit}${cursor}`);
        ids.push(...conversations.map(({ conversation_id }) => conversation_id));
        if (next_cursor === null) return ids;
        cursor = `&cursor=${next_cursor}`;
      }
    };

    const mark = crypto.randomUUID();
    const cases: readonly [text: string, found: string, missed: string][] = [
      ['Grüße aus KÖLN', 'grüsse aus köln'.replace('ss', 'ß'), 'gruße aus koln'],
      ['ΟΔΟΣ ΑΒ', 'οδος αβ', 'οδοα'],
      ['οδοσαβ', 'ΟΔΟΣΑΒ', 'ΟΔΟΑ'],
      ['Привет, МИР', 'привет, мир', 'приветмир'],
      ['您好，世界', '，世', '世好'],
      // Letters with their marks apart, as macOS writes them in names of files.
      ['Cafe\u0301 \u1100\u1161', 'CAFÉ 가', 'cafe'],
      ['İstanbul', 'istanbul', 'istambul'],
      ['100% sure', '0% S', '1% s'],
      ['snake_case', 'E_C', 'snake-case'],
      ['back\\slash', 'K\\S', 'k\\\\s'],
      ['smile 😀 now', '😀 N', '😁'],
      [`'"; DROP --`, `'"; drop`, `'" drop`],
      ['a'.repeat(300), 'A'.repeat(200), `${'a'.repeat(199)}b`],
    ];
    for (const [text, found, missed] of cases) {
      it(`finds ${JSON.stringify(found).slice(0, 30)}, not ${JSON.stringify(missed).slice(0, 30)}`, async () => {
        const { conversation_id: id } = await chat.ask({ message: text });
        assert.ok((await idsOf(found)).includes(id));
        assert.ok(!(await idsOf(missed)).includes(id));
      });
    }

    it('looks at titles, at replies and at long messages, not at superseded ones', async () => {
      const titled = bodyOf(await chat.call('POST', '/api/conversations', { title: `T ${mark}` }), 201);
      const { conversation_id: long } = await chat.ask({ message: `${'长'.repeat(20_000)} ${mark}` });
      const { conversation_id: gone } = await chat.ask({ message: `superseded ${mark}` });
      await chat.server.database
        .knex('messages')
        .where({ conversation_id: gone })
        .update({ status: 'superseded' });
      assert.deepEqual(await idsOf(mark.toUpperCase()), [long, titled.conversation_id]);
      assert.deepEqual(await idsOf(`ECHO: ${'长'.repeat(10)}`), [long]);
    });

    it('says how many conversations it searched, and pages through the matches once, newest first', async () => {
      const word = crypto.randomUUID();
      const conversations = Array.from({ length: 450 }, (_, n) =>
        storedConversation(Date.UTC(2020, 0, 1) + n, [`question ${n}`, n % 3 === 0 ? `x ${word}` : 'none']),
      );
      await store(chat.server.database, conversations);
      const wanted = conversations.filter((_, n) => n % 3 === 0).map(({ id }) => id);
      assert.deepEqual(await every(word, 7), wanted.toReversed());
      assert.deepEqual(await every(word, 1000), wanted.toReversed());
      const { searched, has_more } = await page('not in any', '&limit=1');
      assert.ok(Number(searched) >= 450);
      assert.equal(has_more, false);
      const [newest] = wanted.slice(-1);
      assert.deepEqual(await idsOf(word, '&limit=1&pinned=false'), [newest]);
      assert.deepEqual(await idsOf(word, '&pinned=true'), []);
      assert.deepEqual(await idsOf(word, '&user=nobody'), []);
    });

    /** Nothing of it is left in memory, which the garbage collector would look through. */
    async function storeMany(first: string): Promise<string> {
      const texts = Array.from({ length: 20_000 }, (_, n) =>
        n === 0 ? first : `说点什么 ${n} ${'说'.repeat(100)}`,
      );
      const many = storedConversation(Date.UTC(2021, 0, 1), texts);
      await store(chat.server.database, [many]);
      return many.id;
    }

    it('searches a conversation of many messages to its first one, in slices, so that other requests are served', async () => {
      const word = crypto.randomUUID();
      const id = await storeMany(word);
      // The shortest of several: garbage is collected meanwhile, which takes up to 30 ms.
      let blocked = Number.POSITIVE_INFINITY;
      for (let attempt = 0; attempt < 5 && blocked >= 100; attempt++) {
        const { longest } = await ticksDuring(async () => assert.deepEqual(await every(word, 10), [id]));
        blocked = Math.min(blocked, longest);
      }
      // A database server reads on its own time.
      if (place.name === 'SQLite') assert.ok(blocked < 100, `the event loop was blocked for ${blocked} ms`);
    });

    it('rejects an empty text, one of more than 200 characters and a foreign cursor', async () => {
      for (const query of ['q=', `q=${'x'.repeat(201)}`, 'q=%00', 'q=a&cursor=x', 'q=a&q=b'])
        problemOf(await chat.call('GET', `/api/conversations?${query}`), 400, 'validation');
    });
  });
}

it('ends a page of a search after a second, within a conversation too, and continues from there', async (t) => {
  const chat = await startChat({ CONVERSATION_TTL_HOURS: '0' });
  t.after(() => chat.stop());
  const many = storedConversation(
    Date.UTC(2021, 0, 1),
    Array.from({ length: 3000 }, (_, n) => (n === 0 ? 'the needle' : `hay ${n}`)),
  );
  await store(chat.server.database, [many]);
  // Each look at the clock is half a second later.
  let now = 0;
  t.mock.method(performance, 'now', () => {
    now += 500;
    return now;
  });
  const pages: number[] = [];
  for (let cursor = ''; ; ) {
    const list = shaped(conversationList, await chat.call('GET', `/api/conversations?q=needle${cursor}`));
    pages.push(list.conversations.length);
    if (list.next_cursor === null) break;
    cursor = `&cursor=${list.next_cursor}`;
  }
  assert.ok(pages.length > 3, `${pages.length} pages`);
  assert.deepEqual(pages.slice(0, -1), pages.slice(0, -1).fill(0));
  assert.equal(pages.at(-1), 1);
});
