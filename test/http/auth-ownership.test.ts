/** What belongs to one owner of keys is not there for another, wherever it is and however it is asked for. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { type Answer, databases, problemOf, until } from '../support/chat-server.ts';
import { stored } from '../support/export-data.ts';
import { ndjsonLines } from '../support/export-jobs.ts';
import { createGate, type Handler, hang, reply, wait } from '../support/fake-upstream.ts';
import {
  bodyOf,
  essence,
  type Person,
  type ProtectedDatabase,
  type ProtectedServer,
  protectedDatabase,
  startProtected,
} from '../support/keys.ts';

const ROUTES = ['/api/chat', '/api/chat-stream'] as const;
const TWO_DAYS = 2 * 86_400_000;
const ROUNDS = 20;

const begun = async (person: Person, message: string): Promise<string> =>
  bodyOf(await person.call('POST', '/api/chat', { message })).conversation_id;

const conversations = ({ server: { database } }: ProtectedServer) => database.knex('conversations');

const contents = async (chat: ProtectedServer, id: string) =>
  (await chat.rows(id)).map(({ content }) => content);

/** Everything that a question could leave behind. */
async function everything({ server: { database } }: ProtectedServer) {
  const tables = ['conversations', 'messages', 'idempotency_keys', 'deletions'];
  return Promise.all(tables.map((table) => database.knex(table).select('*')));
}

for (const HISTORY_LIMIT of ['10', '0']) {
  for (const place of databases()) {
    describe(`a conversation of another owner, with HISTORY_LIMIT=${HISTORY_LIMIT}, on ${place.name},`, () => {
      let chat: ProtectedServer;
      let alice: Person;
      let bob: Person;
      let unknown: Answer;
      before(async () => {
        chat = await startProtected(place, { HISTORY_LIMIT, SSE_OPEN_MS: '0' });
        alice = await chat.person('alice');
        bob = await chat.person('bob');
        unknown = await bob.call('GET', `/api/conversations/${crypto.randomUUID()}`);
        problemOf(unknown, 404, 'conversation_not_found');
        await begun(bob, 'known to bob');
      });
      after(() => chat.stop());
      beforeEach(() => chat.upstream.respond(reply('yes')));

      /** Asks for a refusal, in every way: the model is not called. */
      const refused = async (id: string, name: string) => {
        const before = await everything(chat);
        for (const path of ROUTES) {
          for (const [more, key] of [
            [{ message: 'new to bob' }, undefined],
            [{ message: 'new to bob', cache: false }, undefined],
            [{ message: 'known to bob' }, undefined],
            [{ message: 'with a key' }, `${name} ${path}`.replaceAll(' ', '-')],
          ] as const) {
            const asked = chat.upstream.requests.length;
            chat.upstream.respond(hang());
            const keyed = key === undefined ? {} : { 'idempotency-key': key };
            const answer = await bob.call('POST', path, { ...more, conversation_id: id }, keyed);
            problemOf(answer, 404, 'conversation_not_found');
            assert.deepEqual(essence(answer), essence(unknown), JSON.stringify(more));
            assert.equal(chat.upstream.requests.length, asked, JSON.stringify(more));
          }
        }
        assert.deepEqual(await everything(chat), before);
        chat.upstream.respond(reply('yes'));
      };

      it('is 404 like an unknown one: no call, no reply, nothing stored', async () => {
        const id = await begun(alice, 'hers');
        await refused(id, 'live');
        bodyOf(await alice.call('POST', '/api/chat', { message: 'more', conversation_id: id }));
        assert.equal((await chat.rows(id)).length, 4);
      });

      it('is 404 when it has expired, and its messages stay until the owner starts again', async () => {
        const id = await begun(alice, 'hers, long ago');
        await conversations(chat)
          .where({ id })
          .update({ last_active: stored(Date.now() - TWO_DAYS) });
        await refused(id, 'expired');
        bodyOf(await alice.call('POST', '/api/chat', { message: 'anew', conversation_id: id }));
        const { purge } = chat.server.database;
        await purge.remove(await purge.pendingDeletions(0, 10), {});
        assert.deepEqual(await contents(chat, id), ['anew', 'yes']);
      });

      it('is 404 to all but admins when it was created without authentication', async () => {
        const id = await begun(alice, "nobody's");
        await conversations(chat).where({ id }).update({ owner: null });
        await refused(id, 'without');
        for (const person of [alice, bob]) {
          for (const [method, path] of [
            ['GET', ''],
            ['DELETE', ''],
            ['GET', '/export?format=json'],
          ] as const) {
            const answer = await person.call(method, `/api/conversations/${id}${path}`);
            assert.deepEqual(essence(answer), essence(unknown));
          }
          const list = await person.call('GET', '/api/conversations?limit=1000');
          assert(!list.text.includes(id));
        }
        bodyOf(await chat.root.call('GET', `/api/conversations/${id}`));
        bodyOf(await chat.root.call('POST', '/api/chat', { message: 'and?', conversation_id: id }));
        assert.equal((await conversations(chat).where({ id }).first('owner'))?.owner, null);
        assert.equal((await chat.rows(id)).length, 4);
      });
    });
  }
}

for (const place of databases()) {
  describe(`two owners, on ${place.name},`, () => {
    let where: ProtectedDatabase;
    let chat: ProtectedServer;
    /** Another process; on SQLite there is only one. */
    let other: ProtectedServer;
    let alice: Person;
    let bob: Person;
    let elsewhere: Person;
    before(async () => {
      where = await protectedDatabase(place);
      const env = { SSE_OPEN_MS: '0', CHECKPOINT_MS: '50' };
      chat = await where.start(env);
      other = place.name === 'SQLite' ? chat : await where.start(env);
      alice = await chat.person('alice');
      bob = await chat.person('bob');
      elsewhere = other.as(bob);
    });
    after(async () => {
      await chat.stop();
      if (other !== chat) await other.stop();
      await where.remove();
    });

    for (const [how, rival] of [
      ['through one server', () => bob],
      ['through two servers', () => elsewhere],
    ] as const) {
      it(`who use the same new id at the same time ${how}: one has it, the other gets 404`, async (t) => {
        const wins = { alice: 0, bob: 0 };
        for (let round = 0; round < ROUNDS; round += 1) {
          const conversation_id = crypto.randomUUID();
          const path = ROUTES[round % 2] ?? ROUTES[0];
          const ask = (person: Person, name: string) =>
            person.call('POST', path, { message: `${name} asks ${how} ${round}`, conversation_id });
          const [hers, his] = await Promise.all([ask(alice, 'alice'), ask(rival(), 'bob')]);
          const [winner, loser, name] = hers.status === 200 ? [hers, his, 'alice'] : [his, hers, 'bob'];
          assert.equal(winner.status, 200, winner.text);
          problemOf(loser, 404, 'conversation_not_found');
          wins[name === 'alice' ? 'alice' : 'bob'] += 1;
          const question = `${name} asks ${how} ${round}`;
          assert.deepEqual(await contents(chat, conversation_id), [question, `echo: ${question}`]);
          assert.deepEqual(await conversations(chat).where({ id: conversation_id }).first('owner'), {
            owner: name,
          });
        }
        t.diagnostic(`alice won ${wins.alice} times, bob ${wins.bob}`);
      });
    }

    it('who use the same Idempotency-Key for the same question get a turn each', async () => {
      for (const [n, path] of ROUTES.entries()) {
        const ask = (person: Person) =>
          person.call(
            'POST',
            path,
            { message: `keyed ${n}`, cache: false },
            { 'idempotency-key': 'the-same' },
          );
        const calls = () =>
          chat.upstream.requests.length + (other === chat ? 0 : other.upstream.requests.length);
        const before = calls();
        const answers = await Promise.all([ask(alice), ask(bob), ask(elsewhere), ask(alice)]);
        for (const { status, text } of answers) assert.equal(status, 200, text);
        assert.equal(calls() - before, 2);
        const ids = answers.map(({ text }) => /"message_id":"([^"]+)"/.exec(text)?.[1]);
        assert.equal(ids[0], ids[3]);
        assert.equal(ids[1], ids[2]);
        assert.notEqual(ids[0], ids[1]);
        const again = await chat.person('alice');
        assert.equal((await ask(again)).headers['idempotent-replayed'], 'true', 'another key of hers');
        assert.equal((await ask(chat.root)).headers['idempotent-replayed'], undefined);
      }
    });

    it('do not share idempotency keys with an admin of the same name', async () => {
      const admin = await chat.person('ops', ['admin']);
      const namesake = await chat.person('ops');
      const conversation_id = await begun(alice, 'hers only');
      const body = { message: 'what did she say?', conversation_id };
      const headers = { 'idempotency-key': 'of-ops' };
      assert.equal((await admin.call('POST', '/api/chat', body, headers)).status, 200);
      problemOf(await namesake.call('POST', '/api/chat', body, headers), 404, 'conversation_not_found');
    });

    it('see their own lists, and an admin sees everything', async () => {
      const mine = { alice: await begun(alice, 'in her list'), bob: await begun(bob, 'in his list') };
      const listed = async (person: Person): Promise<string[]> => {
        const ids: string[] = [];
        for (let cursor = ''; ; ) {
          const page = bodyOf(await person.call('GET', `/api/conversations?limit=7${cursor}`));
          ids.push(...page.conversations.map((one: { conversation_id: string }) => one.conversation_id));
          if (page.next_cursor === null) return ids;
          cursor = `&cursor=${encodeURIComponent(page.next_cursor)}`;
        }
      };
      const rows: { id: string; owner: string }[] = await conversations(chat).select('id', 'owner');
      const of = (owner?: string) =>
        rows.filter((row) => owner === undefined || row.owner === owner).map(({ id }) => id);
      for (const [person, ids] of [
        [alice, of('alice')],
        [bob, of('bob')],
        [chat.root, of()],
      ] as const) {
        assert.deepEqual((await listed(person)).sort(), [...ids].sort());
        const all = await person.call('GET', '/api/conversations/export-all?format=ndjson');
        const exported = ndjsonLines(all.text).map(({ conversation_id }) => conversation_id);
        assert.deepEqual(exported.sort(), [...ids].sort());
        const { rows: few, estimate } = bodyOf(
          await person.call('GET', '/api/conversations/export-all?format=json&preview=1000'),
        );
        assert.deepEqual([...new Set(few.map(idOf))].sort(), [...ids].sort());
        assert.equal(estimate.conversations, ids.length);
      }
      assert(of('alice').includes(mine.alice) && of('bob').includes(mine.bob));
      // A foreign cursor is only a position; the list is the caller's own.
      const { next_cursor } = bodyOf(await chat.root.call('GET', '/api/conversations?limit=1'));
      const page = bodyOf(await bob.call('GET', `/api/conversations?limit=1000&cursor=${next_cursor}`));
      for (const { conversation_id } of page.conversations) assert(of('bob').includes(conversation_id));
    });

    it('have their own export jobs, with their own conversations and deletions', async () => {
      const gone = { alice: await begun(alice, 'soon gone'), bob: await begun(bob, 'gone soon') };
      const done = async (
        person: Person,
        body: object,
      ): Promise<{ id: string; cursor: string; text: string }> => {
        const { id } = bodyOf(await person.call('POST', '/api/exports', { format: 'ndjson', ...body }), 202);
        await until('the export', async () => {
          return bodyOf(await person.call('GET', `/api/exports/${id}`)).status === 'done';
        });
        const { cursor } = bodyOf(await person.call('GET', `/api/exports/${id}/manifest`));
        return { id, cursor, text: (await person.call('GET', `/api/exports/${id}/file`)).text };
      };
      const jobs = {
        alice: await done(alice, {}),
        bob: await done(bob, {}),
        root: await done(chat.root, {}),
      };
      const rows: { id: string; owner: string }[] = await conversations(chat).select('id', 'owner');
      const ids = ({ text }: { text: string }) => ndjsonLines(text).map(idOf).sort();
      const of = (owner: string) => rows.filter((row) => row.owner === owner).map(({ id }) => id);
      assert.deepEqual(ids(jobs.alice), of('alice').sort());
      assert.deepEqual(ids(jobs.bob), of('bob').sort());
      assert.deepEqual(ids(jobs.root), rows.map(({ id }) => id).sort());

      for (const [person, name] of [
        [alice, 'alice'],
        [bob, 'bob'],
      ] as const) {
        bodyOf(await person.call('DELETE', `/api/conversations/${gone[name]}`));
      }
      const later = await begun(bob, 'after the cursors');
      // A cursor is only a position; the caller's access decides about the changes.
      const { text } = await done(alice, { since: jobs.root.cursor });
      assert(!text.includes(gone.bob) && !text.includes(later), text);
      assert(ndjsonLines(text).some((line) => line.conversation_id === gone.alice && line.deleted === true));
      const all = (await done(chat.root, { since: jobs.alice.cursor })).text;
      for (const id of [gone.alice, gone.bob, later]) assert(all.includes(id), 'an admin gets everything');

      const namesake = await chat.person('root');
      for (const [person, wanted] of [
        [alice, jobs.alice],
        [bob, jobs.bob],
        [namesake, undefined],
      ] as const) {
        const { exports: listed } = bodyOf(await person.call('GET', '/api/exports?limit=1000'));
        const shown: string[] = listed.map(({ id }: { id: string }) => id);
        for (const job of Object.values(jobs)) {
          assert.equal(shown.includes(job.id), job === wanted);
          if (job === wanted) continue;
          for (const [method, path, body] of [
            ['GET', ''],
            ['DELETE', ''],
            ['GET', '/file'],
            ['GET', '/manifest'],
            ['GET', '/events'],
            ['POST', '/link', {}],
          ] as const) {
            const target = (id: string) => person.call(method, `/api/exports/${id}${path}`, body);
            const answer = await target(job.id);
            problemOf(answer, 404, 'export_not_found');
            assert.deepEqual(essence(answer), essence(await target(crypto.randomUUID())));
          }
        }
      }
      const { exports: every } = bodyOf(await chat.root.call('GET', '/api/exports?limit=1000'));
      for (const { id } of Object.values(jobs)) {
        assert(every.some((job: { id: string }) => job.id === id));
        bodyOf(await chat.root.call('DELETE', `/api/exports/${id}`));
      }
    });

    it('delete their own conversations; an admin deletes any', async () => {
      const [first, second] = [await begun(alice, 'stays'), await begun(alice, 'goes')];
      const foreign = await bob.call('DELETE', `/api/conversations/${first}`);
      const none = await bob.call('DELETE', `/api/conversations/${crypto.randomUUID()}`);
      assert.deepEqual(essence(foreign), essence(none));
      assert.equal(foreign.status, 404);
      assert.equal((await chat.rows(first)).length, 2);
      bodyOf(await alice.call('DELETE', `/api/conversations/${first}`));
      problemOf(await alice.call('GET', `/api/conversations/${first}`), 404, 'conversation_not_found');
      bodyOf(await chat.root.call('DELETE', `/api/conversations/${second}`));
      assert.deepEqual(await chat.rows(second), []);
      // A deleted id has no owner: the next caller that uses it gets it.
      bodyOf(await bob.call('POST', '/api/chat', { message: 'mine now', conversation_id: second }));
      problemOf(await alice.call('GET', `/api/conversations/${second}`), 404, 'conversation_not_found');
    });
  });
}

const idOf = ({ conversation_id }: { conversation_id: string }): string => conversation_id;

describe('the response cache, of two owners,', () => {
  const [place] = databases();
  const held =
    (until: { opened: Promise<void> }): Handler =>
    async (exchange) => {
      await wait(until.opened)(exchange);
      await reply('held')(exchange);
    };
  const useOf = ({ headers }: Answer) => String(headers['cache-status']).replace(/; ttl=\d+$/, '');

  for (const [scope, [uses, flights, calls]] of [
    ['owner', [['fwd=miss', 'hit', 'fwd=miss', 'fwd=miss'], ['fwd=miss', 'fwd=miss'], 2]],
    ['global', [['fwd=miss', 'hit', 'hit', 'hit'], ['fwd=miss', 'fwd=miss; collapsed'], 1]],
  ] as const) {
    it(`with CACHE_SCOPE=${scope} shares replies with ${scope === 'owner' ? 'neither' : 'both'}`, async (t) => {
      assert(place);
      const chat = await startProtected(place, { CACHE_SCOPE: scope, SSE_OPEN_MS: '0' });
      t.after(() => chat.stop());
      const [alice, again, bob] = [
        await chat.person('alice'),
        await chat.person('alice'),
        await chat.person('bob'),
      ];
      for (const path of ROUTES) {
        const body = { message: `the same ${path}` };
        const answers = [];
        for (const person of [alice, again, bob, chat.root])
          answers.push(await person.call('POST', path, body));
        assert.deepEqual(
          answers.map(useOf),
          uses.map((use) => `chat; ${use}`),
        );
        const shown = answers.map(({ text }) => /"cached":(true|false)/.exec(text)?.[1]);
        assert.deepEqual(
          shown,
          uses.map((use) => String(use === 'hit')),
        );

        const gate = createGate();
        chat.upstream.respond(held(gate));
        const before = chat.upstream.requests.length;
        const first = alice.call('POST', path, { message: `at once ${path}` });
        await chat.upstream.waitForRequest(before + 1);
        const id = crypto.randomUUID();
        const second = bob.call('POST', path, { message: `at once ${path}`, conversation_id: id });
        await until('his question', async () => (await contents(chat, id)).length > 0);
        if (calls === 2) await chat.upstream.waitForRequest(before + 2);
        gate.open();
        const both = await Promise.all([first, second]);
        assert.deepEqual(
          both.map(useOf),
          flights.map((use) => `chat; ${use}`),
        );
        assert.equal(chat.upstream.requests.length - before, calls);
        chat.upstream.respond(reply('yes'));
      }
    });
  }
});
