/** Results of tools and settings of turns where several callers and several requests meet. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, beforeEach, describe, it } from 'node:test';
import { type Answer, databases, problemOf } from '../support/chat-server.ts';
import { createGate, json, reply, wait } from '../support/fake-upstream.ts';
import { bodyOf, essence, type Person, type ProtectedServer, startProtected } from '../support/keys.ts';

const ROUTES = ['/api/chat', '/api/chat-stream'] as const;
const HOUR = 3_600_000;

/** A model server that asks for one call. */
const calling = (id: string) => {
  const call = { id, type: 'function', function: { name: 'weather', arguments: '{}' } };
  const message = { role: 'assistant', content: null, tool_calls: [call] };
  const choices = [{ index: 0, message, finish_reason: 'tool_calls' }];
  return json({ id: 'chatcmpl-1', object: 'chat.completion', model: 'fake-model', choices });
};
const resultOf = (id: string, content = `of ${id}`) => [{ tool_call_id: id, content }];

for (const place of databases()) {
  describe(`turns of several callers, on ${place.name},`, () => {
    let chat: ProtectedServer;
    let alice: Person;
    let bob: Person;
    let now = Date.now();
    before(async () => {
      chat = await startProtected(place, { SSE_OPEN_MS: '0' }, { clock: { now: () => now } });
      alice = await chat.person('alice');
      bob = await chat.person('bob');
    });
    after(() => chat.stop());
    beforeEach(() => {
      now = Date.now();
      chat.upstream.respond(reply('yes'));
    });

    const post = (body: object, person = alice, path = '/api/chat', headers = {}) =>
      person.call('POST', path, body, headers);
    const asked = async (body: object, person = alice) => bodyOf(await post(body, person));
    const begin = async (callId = 'a') => {
      chat.upstream.respond([calling(callId)]);
      return asked({ message: `weather ${randomUUID()}?` });
    };
    const read = async (id: string) => JSON.parse((await alice.call('GET', `/api/conversations/${id}`)).text);
    const sent = () =>
      chat.upstream.requests.at(-1)?.body.messages.map(({ role, content }) => `${role}:${content}`);
    const counted = (answers: readonly Answer[]) => answers.map(({ status }) => status).sort();

    it('results are the same 404 in unknown, foreign, deleted and expired conversations', async () => {
      const unknown = await post({ conversation_id: randomUUID(), tool_results: resultOf('a') });
      problemOf(unknown, 404, 'conversation_not_found');
      const { conversation_id: hers } = await begin();
      const { conversation_id: deleted } = await begin();
      assert.equal((await alice.call('DELETE', `/api/conversations/${deleted}`)).status, 200);
      const { conversation_id: expired } = await begin();
      const requests = chat.upstream.requests.length;
      for (const path of ROUTES) {
        for (const headers of [{}, { 'idempotency-key': 'k' }]) {
          const answers = [
            await post({ conversation_id: hers, tool_results: resultOf('a') }, bob, path, headers),
            await post({ conversation_id: hers, tool_results: resultOf('b') }, bob, path),
            await post({ conversation_id: deleted, tool_results: resultOf('a') }, alice, path, headers),
          ];
          now += 48 * HOUR;
          answers.push(
            await post({ conversation_id: expired, tool_results: resultOf('a') }, alice, path, headers),
          );
          now -= 48 * HOUR;
          for (const answer of answers) {
            problemOf(answer, 404, 'conversation_not_found');
            assert.deepEqual(essence(answer), essence(unknown));
          }
        }
      }
      assert.equal(chat.upstream.requests.length, requests);
      assert.equal((await chat.rows(hers)).length, 2);
      assert.equal((await asked({ conversation_id: hers, tool_results: resultOf('a') })).response, 'yes');
    });

    for (const [name, more] of [
      ['one of many at the same time gets a reply', { cache: false }],
      ['one of many that could have a cached reply gets one', {}],
    ] as const) {
      it(`of equal results ${name}`, async () => {
        const { conversation_id: id } = await begin();
        if (!('cache' in more)) {
          // The same context with the same results, whose reply is cached.
          const copy = await alice.call('POST', `/api/conversations/${id}/fork`, {});
          const { conversation_id: forked } = JSON.parse(copy.text);
          await asked({ conversation_id: forked, tool_results: resultOf('a') });
        }
        const requests = chat.upstream.requests.length;
        const body = { conversation_id: id, tool_results: resultOf('a'), ...more };
        const gate = createGate();
        chat.upstream.respond(async (exchange) => {
          await wait(gate)(exchange);
          await reply('yes')(exchange);
        });
        const all = Array.from({ length: 8 }, (_, n) => post(body, alice, n % 2 ? ROUTES[1] : ROUTES[0]));
        const refused = Promise.all(all.map(async (one) => (await one).status)).then(() => {});
        await Promise.race([chat.upstream.waitForRequest(requests + 1), refused]);
        gate.open();
        const answers = await Promise.all(all);
        const statuses = counted(answers);
        assert.deepEqual(
          [statuses[0], statuses.filter((status) => status === 200).length],
          [200, 1],
          `${statuses}`,
        );
        for (const answer of answers) {
          if (answer.status === 409) problemOf(answer, 409, 'conversation_busy');
          else if (answer.status !== 200) problemOf(answer, 400, 'validation');
        }
        const roles = (await chat.rows(id)).map(({ role }) => role);
        assert.deepEqual(roles, ['user', 'assistant', 'tool', 'assistant']);
        problemOf(await post(body), 400, 'validation');
      });
    }

    it('results while the reply to a later message streams are 409', async () => {
      const { conversation_id: id } = await begin();
      const gate = createGate();
      chat.upstream.respond([
        async (exchange) => {
          await wait(gate)(exchange);
          await reply('later')(exchange);
        },
      ]);
      const requests = chat.upstream.requests.length;
      const later = post({ message: 'later', conversation_id: id, cache: false }, alice, ROUTES[1]);
      await chat.upstream.waitForRequest(requests + 1);
      for (const path of ROUTES) {
        const body = { conversation_id: id, tool_results: resultOf('a') };
        problemOf(await post(body, alice, path), 409, 'conversation_busy');
      }
      gate.open();
      assert.equal((await later).status, 200);
    });

    it('ids of 4,096 characters, and those with the names of prototypes, are kept', async () => {
      for (const id of ['x'.repeat(4096), '__proto__', 'constructor', '大 \u{1f600}"\\']) {
        const { conversation_id, tool_calls } = await begin(id);
        assert.equal(tool_calls[0].id, id);
        await asked({ conversation_id, tool_results: resultOf(id) });
        assert.equal((await read(conversation_id)).messages[2].tool_call_id, id);
        assert.equal(
          JSON.stringify(chat.upstream.requests.at(-1)?.sentMessages).split(JSON.stringify(id)).length,
          3,
        );
      }
    });

    it('a reply to results can be made again, with the whole exchange and without what came later', async () => {
      const { conversation_id: id } = await begin();
      chat.upstream.respond([reply('sunny')]);
      const { message_id: first } = await asked({ conversation_id: id, tool_results: resultOf('a') });
      await asked({ conversation_id: id, message: 'thanks' });
      chat.upstream.respond([reply('rainy')]);
      const { response, message_id } = await asked({ conversation_id: id, regenerate: first });
      assert.equal(response, 'rainy');
      assert.deepEqual(sent()?.slice(1), ['assistant:', 'tool:of a']);
      const { messages } = await read(id);
      assert.deepEqual(
        messages.map(({ role, content }: { role: string; content: string }) => [role, content]).slice(2),
        [
          ['tool', 'of a'],
          ['assistant', 'rainy'],
        ],
      );
      await asked({ conversation_id: id, message: 'next' });
      assert.deepEqual(sent()?.slice(1), ['assistant:', 'tool:of a', 'assistant:rainy', 'user:next']);
      // The reply with the calls: its results leave with it.
      chat.upstream.respond([reply('no tools')]);
      await asked({ conversation_id: id, regenerate: messages[1].id });
      assert.equal(sent()?.length, 1);
      assert.deepEqual(
        (await read(id)).messages.map(({ role }: { role: string }) => role),
        ['user', 'assistant'],
      );
      problemOf(await post({ conversation_id: id, regenerate: message_id }), 409, 'message_superseded');
    });

    for (const kind of ['regenerate', 'edit'] as const) {
      it(`${kind} stores user and metadata like a turn, and is refused like one`, async () => {
        const { conversation_id: id } = await asked({ message: 'q', metadata: { a: '1' } });
        const revision = async () => {
          const [question] = (await read(id)).messages;
          return { conversation_id: id, [kind]: question.id, ...(kind === 'edit' && { message: 'edited' }) };
        };
        await asked({ ...(await revision()), user: 'ann', metadata: { b: '2' } });
        assert.equal(chat.upstream.requests.at(-1)?.body.user, 'ann');
        const { user, metadata } = await read(id);
        assert.deepEqual([user, metadata], ['ann', { a: '1', b: '2' }]);
        await asked({ ...(await revision()), user: 'ann' });
        problemOf(await post({ ...(await revision()), user: 'bob' }), 422, 'user_mismatch');
        const many = Object.fromEntries(Array.from({ length: 15 }, (_, n) => [`m${n}`, '']));
        problemOf(await post({ ...(await revision()), metadata: many }), 400, 'validation');
        assert.equal((await read(id)).messages.length, 2);
      });
    }

    it('the end user of a conversation belongs to its owner', async () => {
      const { conversation_id: id } = await asked({ message: 'x', user: 'ann' });
      problemOf(await post({ message: 'y', conversation_id: id, user: 'bob' }), 422, 'user_mismatch');
      const headers = { 'idempotency-key': randomUUID() };
      const body = { message: 'y', conversation_id: id, user: 'bob' };
      problemOf(await post(body, alice, ROUTES[0], headers), 422, 'user_mismatch');
      for (const user of ['ann', 'bob']) {
        problemOf(
          await post({ message: 'y', conversation_id: id, user }, bob),
          404,
          'conversation_not_found',
        );
      }
      assert.equal((await chat.rows(id)).length, 2);
      const other = await asked({ message: 'x', user: 'ann' }, bob);
      assert.notEqual(other.conversation_id, id);
    });

    it('an Idempotency-Key covers every member of the body', async () => {
      const { conversation_id: id } = await asked({ message: 'x' });
      const body = {
        message: [
          { type: 'text', text: 'x' },
          { type: 'image_url', image_url: { url: 'https://a.example/1' } },
        ],
        conversation_id: id,
        system: 's',
        parameters: { seed: 1, extra: { a: { b: 1 } } },
        user: 'u',
        metadata: { a: '1' },
        reasoning: true,
        model: 'm',
        format: 'text',
        cache: false,
      };
      const headers = { 'idempotency-key': randomUUID() };
      const first = bodyOf(await post(body, alice, ROUTES[0], headers));
      const again = await post(body, alice, ROUTES[0], headers);
      assert.deepEqual(
        [bodyOf(again).message_id, again.headers['idempotent-replayed']],
        [first.message_id, 'true'],
      );
      const [text] = body.message;
      for (const change of [
        { message: [text, { type: 'image_url', image_url: { url: 'https://a.example/2' } }] },
        { message: [text, { type: 'image_url', image_url: { url: 'https://a.example/1', detail: 'low' } }] },
        { message: 'x' },
        { conversation_id: undefined },
        { system: 't' },
        { parameters: { seed: 2, extra: { a: { b: 1 } } } },
        { parameters: { seed: 1, extra: { a: { b: 2 } } } },
        { parameters: { seed: 1, extra: { a: { b: 1 } }, stop: null } },
        { user: undefined },
        { metadata: { a: '2' } },
        { reasoning: false },
        { model: 'n' },
        { format: 'markdown' },
        { cache: true },
        { message: undefined, tool_results: resultOf('a') },
        { message: undefined, regenerate: first.message_id },
        { edit: first.message_id },
      ]) {
        const answer = await post({ ...body, ...change }, alice, ROUTES[0], headers);
        problemOf(answer, 422, 'idempotency_mismatch');
      }
    });
  });
}
