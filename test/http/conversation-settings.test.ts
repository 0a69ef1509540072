/** Creating conversations, their settings, titles, pins and lists. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { conversationList, listedConversation } from '../../src/http/schemas/conversations.ts';
import {
  type Answer,
  type ChatServer,
  databases,
  problemOf,
  shaped,
  startChat,
} from '../support/chat-server.ts';
import { bodyOf } from '../support/keys.ts';

const HOUR = 3_600_000;
const NOTHING = {
  title: null,
  pinned: false,
  user: null,
  metadata: {},
  system: null,
  model: null,
  parameters: {},
  last_message: null,
};
const EVERYTHING = {
  title: 'Trip to 京都 😀',
  system: 'Be brief.',
  model: 'small',
  parameters: { temperature: 0.5 },
  user: 'user-1',
  metadata: { topic: 'travel', '%_\\': '' },
  pinned: true,
};

for (const place of databases()) {
  describe(`settings of conversations, on ${place.name},`, () => {
    let chat: ChatServer;
    let now = Date.UTC(2026, 2, 21, 8, 30);
    before(async () => {
      const env = { ...(await place.create()), HISTORY_LIMIT: '0' };
      chat = await startChat(env, { clock: { now: () => now } });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const post = (body: object) => chat.call('POST', '/api/conversations', body);
    const patch = (id: string, body: object) => chat.call('PATCH', `/api/conversations/${id}`, body);
    const make = async (body: object = {}): Promise<string> => bodyOf(await post(body), 201).conversation_id;
    const list = async (query = '') =>
      shaped(conversationList, await chat.call('GET', `/api/conversations${query}`));
    const idsOf = async (query: string) =>
      (await list(query)).conversations.map(({ conversation_id }) => conversation_id);
    const titleOf = async (id: string) => (await chat.read(id)).title;

    for (const [what, settings] of Object.entries({ 'no settings': {}, 'all settings': EVERYTHING })) {
      it(`creates a conversation with ${what}, which GET and the list show`, async () => {
        const answer = await post(settings);
        const created = listedConversation.parse(bodyOf(answer, 201));
        const { conversation_id: id } = created;
        assert.equal(answer.headers.location, `/api/conversations/${id}`);
        const expected = { ...NOTHING, ...settings };
        assert.deepEqual(created, {
          conversation_id: id,
          created_at: new Date(now).toISOString(),
          last_active: new Date(now).toISOString(),
          expires_at: expected.pinned ? null : new Date(now + 24 * HOUR).toISOString(),
          ...expected,
        });
        const { last_message, ...shown } = created;
        assert.deepEqual(await chat.read(id), { ...shown, messages: [], has_more: false, next_cursor: null });
        assert.equal(last_message, null);
        const listed = (await list('?limit=1000')).conversations;
        assert.deepEqual(
          listed.find(({ conversation_id }) => conversation_id === id),
          created,
        );
      });
    }

    it('changes only what PATCH names, clears with null and keeps the activity', async () => {
      const id = await make(EVERYTHING);
      now += 1000;
      const { user } = EVERYTHING;
      const shown = async (answer: Answer) => {
        const body = listedConversation.parse(bodyOf(answer));
        assert.equal(body.last_active, new Date(now - 1000).toISOString());
        const { title, pinned, metadata, system, model, parameters } = body;
        return { title, pinned, user: body.user, metadata, system, model, parameters };
      };
      assert.deepEqual(await shown(await patch(id, {})), EVERYTHING);
      const changed = { title: 'T', metadata: { only: 'this' }, pinned: false };
      assert.deepEqual(await shown(await patch(id, changed)), { ...EVERYTHING, ...changed });
      const cleared = { title: null, system: null, model: null, parameters: null, metadata: null };
      const { last_message: _, ...nothing } = NOTHING;
      await patch(id, { pinned: true });
      assert.deepEqual(await shown(await patch(id, { ...cleared, pinned: null })), { ...nothing, user });
    });

    const wrong: readonly [string, unknown, string][] = [
      ['title', '', 'title'],
      ['title', ' \n', 'title'],
      ['title', 'x'.repeat(201), 'title'],
      ['title', 'a\0b', 'title'],
      ['title', '\ud800', 'title'],
      ['title', 7, 'title'],
      ['system', 'x'.repeat(32_001), 'system'],
      ['model', 'x'.repeat(201), 'model'],
      ['model', '', 'model'],
      ['parameters', [], 'parameters'],
      ['metadata', { a: 1 }, 'metadata.a'],
      ['metadata', { a: null }, 'metadata.a'],
      ['metadata', { a: 'x'.repeat(513) }, 'metadata.a'],
      ['metadata', { ['k'.repeat(65)]: 'x' }, `metadata.${'k'.repeat(64)}`],
      ['parameters', { temperatur: 1 }, 'parameters.temperatur'],
      ['parameters', { temperature: 3 }, 'parameters.temperature'],
      ['metadata', Object.fromEntries(Array.from({ length: 17 }, (_, n) => [`k${n}`, 'x'])), 'metadata'],
      ['pinned', 'yes', 'pinned'],
      ['titel', 'x', 'titel'],
      ['messages', [], 'messages'],
    ];
    for (const [name, value, path] of wrong) {
      it(`rejects ${name} ${JSON.stringify(value).slice(0, 40)} in POST and PATCH`, async () => {
        const id = await make();
        for (const answer of [await post({ [name]: value }), await patch(id, { [name]: value })]) {
          const { errors } = problemOf(answer, 400, 'validation');
          assert.equal(errors?.[0]?.path, path);
        }
      });
    }

    it('rejects a user in PATCH, and one that is too long or blank in POST', async () => {
      problemOf(await patch(await make(), { user: 'u' }), 400, 'validation');
      for (const user of ['', 'x'.repeat(129), null]) problemOf(await post({ user }), 400, 'validation');
    });

    it('finds no conversation to change that is unknown, deleted or expired', async () => {
      const deleted = await make();
      await chat.call('DELETE', `/api/conversations/${deleted}`);
      const expired = await make();
      now += 25 * HOUR;
      for (const id of [crypto.randomUUID(), deleted, expired])
        problemOf(await patch(id, { pinned: true }), 404, 'conversation_not_found');
      problemOf(await patch('x', {}), 400, 'validation');
    });

    const family = '👩‍👩‍👧';
    const titles: readonly [string, string][] = [
      ['one line', 'one line'],
      ['\r\n  first \r\nsecond', 'first'],
      ['a\u2028b', 'a'],
      ['x'.repeat(100), 'x'.repeat(80)],
      [`${'x'.repeat(79)}😀`, 'x'.repeat(79)],
      [`${'x'.repeat(75)}${family} more`, 'x'.repeat(75)],
      [`${'x'.repeat(72)}${family}more`, `${'x'.repeat(72)}${family}`],
      [`${'说'.repeat(90)}`, '说'.repeat(80)],
      [`e${'\u0301'.repeat(100)}`, `e${'\u0301'.repeat(79)}`],
    ];
    for (const [message, title] of titles) {
      it(`has the title ${JSON.stringify(title).slice(0, 30)} by its first question`, async () => {
        const { conversation_id: id } = await chat.ask({ message });
        await chat.ask({ message: 'second question', conversation_id: id });
        assert.equal(await titleOf(id), title);
        assert.equal(bodyOf(await patch(id, { title: 'mine' })).title, 'mine');
        assert.equal(bodyOf(await patch(id, { title: null })).title, title);
      });
    }

    it('never expires or is purged while it is pinned, then expires by its last activity', async () => {
      const { conversation_id: id } = await chat.ask({ message: 'keep me' });
      const { conversation_id: other } = await chat.ask({ message: 'lose me' });
      assert.equal(bodyOf(await patch(id, { pinned: true })).expires_at, null);
      now += 48 * HOUR;
      const { knex, purge } = chat.server.database;
      const cutoff = now - 24 * HOUR;
      const candidates = await purge.candidates(cutoff, null, 1);
      assert.deepEqual(
        (await purge.hide([id], cutoff)).length + candidates.filter((one) => one.id === id).length,
        0,
      );
      assert.equal(await purge.countLeft(cutoff), (await purge.countExpired(cutoff)).conversations);
      const [shown, listed, exported] = await Promise.all([
        chat.read(id),
        idsOf('?limit=1000'),
        chat.call('GET', '/api/conversations/export-all?format=ndjson'),
      ]);
      assert.deepEqual([shown.expires_at, shown.messages.length], [null, 2]);
      assert.ok(listed.includes(id) && !listed.includes(other));
      assert.ok(exported.text.includes(id) && !exported.text.includes(other));
      const stream = await chat.call('GET', `/api/chat-stream/${shown.messages[1]?.id}`);
      assert.equal(stream.status, 200);
      // A turn continues the same conversation.
      assert.equal((await chat.ask({ message: 'more', conversation_id: id })).expires_at, null);
      assert.equal((await chat.read(id)).messages.length, 4);
      now += 48 * HOUR;
      const unpinned = listedConversation.parse(bodyOf(await patch(id, { pinned: false })));
      assert.equal(unpinned.expires_at, new Date(now - 24 * HOUR).toISOString());
      problemOf(await chat.call('GET', `/api/conversations/${id}`), 404, 'conversation_not_found');
      assert.equal((await purge.hide([id], now - 24 * HOUR)).length, 1);
      assert.equal((await knex('conversations').where({ id, pinned: 1 })).length, 0);
    });

    it('keeps its idempotency keys while it is pinned', async () => {
      const key = { 'idempotency-key': crypto.randomUUID() };
      const ask = async () => bodyOf(await chat.call('POST', '/api/chat', { message: 'once' }, key));
      const first = await ask();
      await patch(first.conversation_id, { pinned: true });
      now += 48 * HOUR;
      assert.deepEqual([(await ask()).message_id], [first.message_id]);
    });

    it('loses its settings with its messages when an expired one starts anew', async () => {
      const id = await make({ ...EVERYTHING, pinned: false });
      now += 48 * HOUR;
      await chat.ask({ message: 'anew', conversation_id: id });
      const { title, user, metadata, system, pinned } = await chat.read(id);
      assert.deepEqual([title, user, metadata, system, pinned], ['anew', null, {}, null, false]);
    });

    it('lists by user and by pin, in pages, pinned ones also when they are idle', async () => {
      const user = `user % ${crypto.randomUUID()}`;
      const made: string[] = [];
      for (let n = 0; n < 6; n++) {
        now += 1;
        made.push(await make({ user, pinned: n % 2 === 0 }));
      }
      const [a, b, c, d, e, f] = made;
      const query = `user=${encodeURIComponent(user)}`;
      const paged = async (filter: string) => {
        const ids: (string | undefined)[] = [];
        for (let cursor = ''; ; ) {
          const page = await list(`?limit=1&${filter}${cursor}`);
          ids.push(...page.conversations.map(({ conversation_id }) => conversation_id));
          if (page.next_cursor === null) return ids;
          cursor = `&cursor=${page.next_cursor}`;
        }
      };
      assert.deepEqual(await paged(query), [f, e, d, c, b, a]);
      assert.deepEqual(await paged(`${query}&pinned=true`), [e, c, a]);
      assert.deepEqual(await paged(`${query}&pinned=false`), [f, d, b]);
      now += 48 * HOUR;
      const young = await make({});
      assert.deepEqual(await paged(query), [e, c, a]);
      assert.deepEqual((await paged('pinned=true')).slice(0, 3), [e, c, a]);
      assert.deepEqual((await paged('')).slice(0, 4), [young, e, c, a]);
      assert.deepEqual(await paged('pinned=false'), [young]);
      for (const bad of ['user=', 'pinned=1', `user=${'x'.repeat(129)}`])
        problemOf(await chat.call('GET', `/api/conversations?${bad}`), 400, 'validation');
    });

    it('lists the beginning of the last visible message', async () => {
      const { conversation_id: id, message_id } = await chat.ask({ message: `a\n\n b ${'c'.repeat(200)}` });
      const last = async () =>
        (await list('?limit=1000')).conversations.find(({ conversation_id }) => conversation_id === id)
          ?.last_message;
      const reply = await last();
      assert.deepEqual(
        [reply?.id, reply?.role, reply?.status, reply?.preview],
        [message_id, 'assistant', 'complete', `echo: a b ${'c'.repeat(110)}`],
      );
      await chat.server.database.knex('messages').where({ uid: message_id }).update({ status: 'superseded' });
      assert.equal((await last())?.role, 'user');
    });
  });
}
