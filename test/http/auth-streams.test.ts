/** Replies of one owner of keys are not there for another: running, ended, after a restart, and in the journal. */
import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';
import { type Answer, databases, problemOf, until } from '../support/chat-server.ts';
import { serverUrls } from '../support/databases.ts';
import { createGate, delta, done, finish, type Gate, script, usage, wait } from '../support/fake-upstream.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';
import {
  bearer,
  bodyOf,
  essence,
  type Person,
  type ProtectedDatabase,
  type ProtectedServer,
  protectedDatabase,
} from '../support/keys.ts';
import { checkStream, joined, openStream, resumeStream } from '../support/sse-client.ts';

/** Short, so that a test quickly sees the database go down and come back. */
const QUICK = {
  SSE_OPEN_MS: '0',
  CHECKPOINT_MS: '50',
  DB_ACQUIRE_TIMEOUT_MS: '1000',
  DB_QUERY_TIMEOUT_MS: '2000',
};

const halves = (gate: Gate) =>
  script(delta('The first half, '), wait(gate), delta('the second.'), finish(), usage(), done());
const WHOLE = 'The first half, the second.';

const path = (id: string) => `/api/chat-stream/${id}`;

interface Asked {
  readonly id: string;
  readonly conversation: string;
  /** Lets the reply end, and waits for it. */
  end(): Promise<void>;
}

/** A reply that has said its first half. */
async function running(chat: ProtectedServer, by: Person, body: object = {}): Promise<Asked> {
  const gate = createGate();
  chat.upstream.respond([halves(gate)]);
  const asked = { message: 'tell me', cache: false, ...body };
  const reader = await openStream(chat.url, asked, { headers: bearer(by.key) });
  assert.equal(reader.status, 200);
  await reader.until('content');
  return {
    id: String(reader.headers['x-stream-id']),
    conversation: String(reader.headers['x-conversation-id']),
    async end() {
      gate.open();
      const events = await reader.rest();
      assert.equal(events.at(-1)?.type, 'done');
    },
  };
}

/** They can neither read nor stop it, and get the error of an unknown stream. */
async function hidden(id: string, ...people: Person[]): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const person of people) {
    for (const method of ['GET', 'HEAD', 'DELETE']) {
      const answer = await person.call(method, path(id), undefined, { 'last-event-id': `${id}:3` });
      const none = crypto.randomUUID();
      const unknown = await person.call(method, path(none), undefined, { 'last-event-id': `${none}:3` });
      assert.deepEqual(essence(answer), essence(unknown), `${method}: ${answer.text}`);
      answers.push(answer);
    }
  }
  return answers;
}

async function hiddenAs404(id: string, ...people: Person[]): Promise<void> {
  for (const { status } of await hidden(id, ...people)) assert.equal(status, 404);
}

/** They read it to this end, from its beginning. */
async function readable(chat: ProtectedServer, id: string, ...people: Person[]): Promise<void> {
  for (const { key } of people) {
    const reader = await resumeStream(chat.url, id, { headers: bearer(key) });
    assert.equal(reader.status, 200);
    const events = await reader.rest();
    assert.equal(checkStream(events).type, 'done');
    assert.equal(joined(events), WHOLE);
  }
}

for (const place of databases()) {
  describe(`the stream of another owner, on ${place.name},`, () => {
    let where: ProtectedDatabase;
    let chat: ProtectedServer;
    let alice: Person;
    let again: Person;
    let bob: Person;
    let admin: Person;
    /** Not an admin, of the same owner. */
    let namesake: Person;
    before(async () => {
      where = await protectedDatabase(place);
      chat = await where.start(QUICK);
      alice = await chat.person('alice');
      again = await chat.person('alice', ['chat']);
      bob = await chat.person('bob');
      admin = await chat.person('ops', ['admin']);
      namesake = await chat.person('ops');
    });
    after(async () => {
      await chat.stop();
      await where.remove();
    });

    it('is 404 while it runs and after its end, and keeps running', async () => {
      const { id, end } = await running(chat, alice);
      await hiddenAs404(id, bob, namesake);
      const reading = readable(chat, id, again);
      await end();
      await reading;
      await hiddenAs404(id, bob, namesake);
      await readable(chat, id, alice, again, admin);
    });

    it('is 404 after a restart', async () => {
      const { id, end } = await running(chat, alice);
      await end();
      await chat.stop();
      chat = await where.start(QUICK);
      [alice, again, bob] = [chat.as(alice), chat.as(again), chat.as(bob)];
      [admin, namesake] = [chat.as(admin), chat.as(namesake)];
      await hiddenAs404(id, bob, namesake);
      await readable(chat, id, alice, again, admin);
    });

    it('is stopped by another key of the same owner and by an admin', async () => {
      for (const person of [again, admin]) {
        const { id } = await running(chat, alice);
        const { stopped, status } = bodyOf(await person.call('DELETE', path(id)));
        assert.deepEqual([stopped, status], [true, 'cancelled']);
        assert.match((await alice.call('GET', path(id))).text, /"finish_reason":"cancelled"/);
      }
    });

    it('belongs to the owner of the conversation when an admin asks in it, and not to an owner with the admin’s name', async () => {
      const first = bodyOf(await alice.call('POST', '/api/chat', { message: 'mine' }));
      const { id, conversation, end } = await running(chat, admin, {
        conversation_id: first.conversation_id,
      });
      assert.equal(conversation, first.conversation_id);
      await hiddenAs404(id, bob, namesake);
      const reading = readable(chat, id, alice);
      await end();
      await reading;
      await hiddenAs404(id, bob, namesake);
      await readable(chat, id, alice, admin);
      const { messages } = bodyOf(await alice.call('GET', `/api/conversations/${conversation}`));
      assert.equal(messages.length, 4);
      const row = await chat.server.database.knex('conversations').where({ id: conversation }).first('owner');
      assert.equal(row?.owner, 'alice');
    });

    it('belongs to an admin who starts a conversation', async () => {
      const { id, end } = await running(chat, admin);
      await hiddenAs404(id, alice, bob);
      const reading = readable(chat, id, admin, namesake);
      await end();
      await reading;
      await hiddenAs404(id, alice, bob);
    });

    it('ends when its owner deletes the conversation, and not when another owner tries', async () => {
      const { id, conversation } = await running(chat, alice);
      problemOf(
        await bob.call('DELETE', `/api/conversations/${conversation}`),
        404,
        'conversation_not_found',
      );
      const reader = await resumeStream(chat.url, id, { headers: bearer(alice.key) });
      await reader.until('content');
      bodyOf(await alice.call('DELETE', `/api/conversations/${conversation}`));
      const last = (await reader.rest()).at(-1);
      assert.equal(last?.data.code, 'conversation_not_found');
      await hiddenAs404(id, alice, bob);
    });
  });
}

/** A place whose database can be taken away from one server and given back. */
async function breakable(t: TestContext, env: Record<string, string> = {}) {
  const [, place] = databases();
  assert(place);
  const where = await protectedDatabase(place);
  const address = new URL(String(where.env.DATABASE_URL));
  const proxy = await startFaultProxy(Number(address.port));
  address.port = String(proxy.port);
  const chat = await where.start({ ...QUICK, ...env, DATABASE_URL: address.href });
  t.after(async () => {
    proxy.accept();
    await chat.stop();
    await proxy.close();
    await where.remove();
  });
  const [alice, bob, admin, namesake] = [
    await chat.person('alice'),
    await chat.person('bob'),
    await chat.person('ops', ['admin']),
    await chat.person('ops'),
  ];
  // A recently verified key stays valid.
  for (const person of [alice, bob, admin, namesake]) bodyOf(await person.call('GET', '/openapi.json'));
  const journal = async () => bodyOf(await chat.root.call('GET', '/health/ready'), 503).journal.turns;
  bodyOf(await chat.root.call('GET', '/health/ready'));
  return {
    where,
    chat,
    alice,
    bob,
    admin,
    namesake,
    journal,
    takeAway() {
      proxy.refuse();
      proxy.cut();
    },
    async giveBack() {
      proxy.accept();
      await until('the journal to be empty', async () => {
        const { status, text } = await chat.root.call('GET', '/health/ready');
        return status === 200 && JSON.parse(text).journal.turns === 0;
      });
    },
  };
}

if (serverUrls().length > 0) {
  describe('the stream of another owner while the database is unavailable', () => {
    it('is like an unknown one: while it runs, in the journal, and in the database', async (t) => {
      const { chat, alice, bob, admin, namesake, takeAway, giveBack } = await breakable(t);
      takeAway();
      const { id, end } = await running(chat, alice);
      const strangers = [bob, namesake];
      for (const { status } of await hidden(id, ...strangers)) assert.equal(status, 503);
      const reading = readable(chat, id, alice, admin);
      await end();
      await reading;
      for (const { status } of await hidden(id, ...strangers)) assert.equal(status, 503);
      await readable(chat, id, alice, admin);
      await giveBack();
      await hiddenAs404(id, ...strangers);
      await readable(chat, id, alice, admin);
    });

    it('is not accessible to an owner with the name of the admin who asked in it', async (t) => {
      const { chat, alice, bob, admin, namesake, takeAway, giveBack } = await breakable(t);
      const first = bodyOf(await alice.call('POST', '/api/chat', { message: 'mine' }));
      const { id, end } = await running(chat, admin, { conversation_id: first.conversation_id });
      takeAway();
      await until('the outage to be seen', async () => {
        return (await chat.root.call('GET', '/api/keys')).status === 503;
      });
      await hidden(id, bob, namesake);
      await end();
      await hidden(id, bob, namesake);
      await giveBack();
      await hiddenAs404(id, bob, namesake);
      await readable(chat, id, alice, admin);
    });

    it('cannot begin in a conversation that only the database knows, even without a history', async (t) => {
      const { chat, alice, bob, takeAway, giveBack } = await breakable(t, { HISTORY_LIMIT: '0' });
      const { conversation_id } = bodyOf(await alice.call('POST', '/api/chat', { message: 'mine' }));
      takeAway();
      // Its owner and its settings are unknown until the database is back.
      for (const [caller, id] of [
        [bob, conversation_id],
        [alice, conversation_id],
        [alice, crypto.randomUUID()],
      ] as const) {
        const answer = await caller.call('POST', '/api/chat', { message: 'more', conversation_id: id });
        problemOf(answer, 503, 'database_unavailable');
      }
      await giveBack();
      const texts = (await chat.rows(conversation_id)).map(({ content }) => content);
      assert.deepEqual(texts, ['mine', 'echo: mine']);
    });

    it('is rejected for owners who name a conversation that began there, even without a history', async (t) => {
      for (const HISTORY_LIMIT of ['10', '0']) {
        const { chat, alice, bob, takeAway, giveBack } = await breakable(t, { HISTORY_LIMIT });
        takeAway();
        const { conversation_id } = bodyOf(await alice.call('POST', '/api/chat', { message: 'mine' }));
        for (const route of ['/api/chat', '/api/chat-stream']) {
          const answer = await bob.call('POST', route, { message: 'his', conversation_id });
          problemOf(answer, 404, 'conversation_not_found');
        }
        await giveBack();
        const texts = (await chat.rows(conversation_id)).map(({ content }) => content);
        assert.deepEqual(texts, ['mine', 'echo: mine']);
      }
    });

    it('is not added to the conversation that another owner started elsewhere with the same id', async (t) => {
      const { where, chat, alice, bob, takeAway, giveBack } = await breakable(t);
      const other = await where.start({ DATA_DIR: `${where.env.DATA_DIR}/other-host` });
      t.after(() => other.stop());
      const elsewhere = other.as(bob);
      takeAway();
      const { conversation_id } = bodyOf(await alice.call('POST', '/api/chat', { message: 'mine' }));
      bodyOf(await elsewhere.call('POST', '/api/chat', { message: 'his', conversation_id }));
      await giveBack();
      const texts = (await chat.rows(conversation_id)).map(({ content }) => content);
      assert.deepEqual(texts, ['his', 'echo: his']);
      assert.equal(bodyOf(await bob.call('GET', `/api/conversations/${conversation_id}`)).messages.length, 2);
      problemOf(
        await alice.call('GET', `/api/conversations/${conversation_id}`),
        404,
        'conversation_not_found',
      );
    });
  });
}
