import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, databases, problemOf, until } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  finish,
  reply,
  script,
  status,
  thenReset,
  wait,
} from '../support/fake-upstream.ts';
import { type Pair, startPair } from '../support/pair.ts';
import { joined, openStream, resumeStream } from '../support/sse-client.ts';

interface Turn {
  readonly question: string;
  readonly reply: string;
}

for (const place of databases()) {
  describe(`regenerate and edit, on ${place.name},`, () => {
    let pair: Pair;
    let chat: ChatServer;
    before(async () => {
      pair = await startPair(place, { SSE_OPEN_MS: '0', CHECKPOINT_MS: '50' });
      chat = pair.a;
    });
    after(() => pair.stop());

    /** `q1 a1 q2 a2`… with the ids of the messages. */
    async function converse(turns: number): Promise<{ id: string; turns: Turn[] }> {
      let id: string | undefined;
      for (let n = 1; n <= turns; n++) {
        chat.upstream.respond([reply(`a${n}`)]);
        const body = { message: `q${n}`, cache: false, ...(id !== undefined && { conversation_id: id }) };
        id = (await chat.ask(body)).conversation_id;
      }
      assert.ok(id);
      const { messages } = await chat.read(id);
      const ids = messages.map((message) => message.id);
      const written = Array.from({ length: turns }, (_, at) => ({
        question: ids[2 * at] ?? '',
        reply: ids[2 * at + 1] ?? '',
      }));
      return { id, turns: written };
    }

    const said = async (id: string) => (await pair.b.read(id)).messages.map(({ content }) => content);

    const sent = () =>
      chat.upstream.requests.at(-1)?.body.messages.map(({ role, content }) => `${role[0]}:${content}`);

    for (const [name, body, context, visible] of [
      [
        'regenerate of a reply',
        ({ turns }: { turns: Turn[] }) => ({ regenerate: turns[1]?.reply }),
        ['u:q1', 'a:a1', 'u:q2'],
        ['q1', 'a1', 'q2', 'new'],
      ],
      [
        'regenerate of a question',
        ({ turns }: { turns: Turn[] }) => ({ regenerate: turns[1]?.question.toUpperCase() }),
        ['u:q1', 'a:a1', 'u:q2'],
        ['q1', 'a1', 'q2', 'new'],
      ],
      [
        'edit of the first question',
        ({ turns }: { turns: Turn[] }) => ({ edit: turns[0]?.question, message: 'edited' }),
        ['u:edited'],
        ['edited', 'new'],
      ],
      [
        'edit of the last question',
        ({ turns }: { turns: Turn[] }) => ({ edit: turns[2]?.question, message: 'edited' }),
        ['u:q1', 'a:a1', 'u:q2', 'a:a2', 'u:edited'],
        ['q1', 'a1', 'q2', 'a2', 'edited', 'new'],
      ],
    ] as const) {
      for (const route of ['chat', 'chat-stream'] as const) {
        it(`${name} on /api/${route}: the model gets what was before, and later messages are superseded`, async () => {
          const conversation = await converse(3);
          const { id } = conversation;
          chat.upstream.respond([reply('new')]);
          const sending = { ...body(conversation), conversation_id: id, cache: false };
          const answer = await pair.b.call('POST', `/api/${route}`, sending);
          assert.equal(answer.status, 200, answer.text);
          assert.deepEqual(sent(), context);
          assert.deepEqual(await said(id), visible);
          const question = (await pair.b.read(id)).messages.at(-2)?.id;
          assert.equal(/"question_id":"([^"]+)"/.exec(answer.text)?.[1], question);
          const rows = await chat.rows(id);
          const kept = rows.filter((row) => row.status !== 'superseded').map(({ content }) => content);
          assert.deepEqual(kept, visible);
          assert.equal(rows.length, name.startsWith('edit') ? 8 : 7);
          chat.upstream.respond([reply('next')]);
          await chat.ask({ message: 'more', conversation_id: id, cache: false });
          assert.deepEqual(sent(), [...context, 'a:new', 'u:more']);
        });
      }
    }

    it('everything stays visible until the first text, and then on every worker', async () => {
      const { id, turns } = await converse(1);
      const gate = createGate();
      chat.upstream.respond([script(wait(gate), delta('new'), finish())]);
      const stream = await openStream(chat.url, {
        edit: turns[0]?.question,
        message: 'edited',
        conversation_id: id,
        cache: false,
      });
      await stream.until('start');
      assert.deepEqual(await said(id), ['q1', 'a1']);
      const exported = await pair.b.call('GET', `/api/conversations/${id}/export?format=ndjson`);
      assert.deepEqual(
        JSON.parse(exported.text).messages.map(({ content, status }: Record<string, string>) => [
          content,
          status,
        ]),
        [
          ['q1', 'complete'],
          ['a1', 'complete'],
          ['edited', 'superseded'],
        ],
      );
      const { messages } = await pair.b.read(id, '?include=superseded');
      assert.deepEqual(
        messages.map(({ content }) => content),
        ['q1', 'a1', 'edited'],
      );
      gate.open();
      await stream.until('done');
      assert.deepEqual(await said(id), ['edited', 'new']);
    });

    it('a reply without text yet is resumed and stopped through another worker', async () => {
      const { id, turns } = await converse(1);
      const gate = createGate();
      chat.upstream.respond([script(wait(gate), delta('new'), finish())]);
      const body = { regenerate: turns[0]?.reply, conversation_id: id };
      const stream = await openStream(chat.url, body);
      const streamId = String(stream.headers['x-stream-id']);
      const other = await resumeStream(pair.b.url, streamId);
      await other.until('start');
      const stopped = await pair.b.call('DELETE', `/api/chat-stream/${streamId}`);
      assert.equal(JSON.parse(stopped.text).status, 'cancelled');
      for (const reader of [stream, other]) {
        const end = await reader.until('done');
        assert.equal(end.data.finish_reason, 'cancelled');
      }
      gate.open();
      assert.deepEqual(await said(id), ['q1', '']);
    });

    it('a failure before the first text leaves everything visible, and the next one succeeds', async () => {
      const { id, turns } = await converse(2);
      for (const body of [{ regenerate: turns[0]?.reply }, { edit: turns[0]?.question, message: 'edited' }]) {
        chat.upstream.respond([status(500)]);
        const failed = await chat.call('POST', '/api/chat', { ...body, conversation_id: id, cache: false });
        assert.equal(failed.status, 502, failed.text);
        assert.deepEqual(await said(id), ['q1', 'a1', 'q2', 'a2']);
      }
      chat.upstream.respond([reply('new')]);
      await chat.ask({ regenerate: turns[0]?.question, conversation_id: id });
      assert.deepEqual(await said(id), ['q1', 'new']);
    });

    it('a conversation is busy on every worker while a reply is streaming', async () => {
      const { id, turns } = await converse(1);
      const gate = createGate();
      chat.upstream.respond([script(delta('a'), wait(gate), delta('2'), finish())]);
      const stream = await openStream(chat.url, { message: 'q2', conversation_id: id, cache: false });
      await stream.until('content');
      for (const server of [pair.a, pair.b]) {
        for (const body of [{ regenerate: turns[0]?.reply }, { edit: turns[0]?.question, message: 'x' }]) {
          const refused = await server.call('POST', '/api/chat', { ...body, conversation_id: id });
          problemOf(refused, 409, 'conversation_busy');
          assert.equal(refused.headers['retry-after'], '1');
        }
      }
      gate.open();
      await stream.until('done');
      assert.deepEqual(await said(id), ['q1', 'a1', 'q2', 'a2']);
    });

    it('of many at the same time one wins, and the others are 409 and call no model', async () => {
      const { id, turns } = await converse(1);
      const calls = chat.upstream.requests.length;
      const gate = createGate();
      chat.upstream.respond([
        async (exchange) => {
          await gate.opened;
          await reply('new')(exchange);
        },
      ]);
      const answers = Array.from({ length: 20 }, (_, index) =>
        (index % 2 ? pair.a : pair.b).call('POST', '/api/chat', {
          ...(index % 3 ? { regenerate: turns[0]?.reply } : { edit: turns[0]?.question, message: 'q1' }),
          conversation_id: id,
          cache: false,
        }),
      );
      let settled = 0;
      for (const answer of answers) void answer.then(() => settled++);
      await until('19 refusals', () => settled === 19);
      gate.open();
      const codes = (await Promise.all(answers)).map((answer) => answer.status).sort();
      assert.deepEqual(codes, [200, ...Array(19).fill(409)]);
      assert.equal(chat.upstream.requests.length, calls + 1);
      assert.deepEqual(await said(id), ['q1', 'new']);
    });

    it('is refused for ids that do not fit', async () => {
      const { id, turns } = await converse(2);
      const other = await converse(1);
      const [first] = turns;
      assert.ok(first);
      chat.upstream.respond([reply('new')]);
      await chat.ask({ regenerate: first.reply, conversation_id: id });
      const calls = chat.upstream.requests.length;
      const unknown = randomUUID();
      for (const [body, code, problem, path] of [
        [{ regenerate: first.reply }, 400, 'validation', 'conversation_id'],
        [{ edit: first.question, message: 'x' }, 400, 'validation', 'conversation_id'],
        [{ edit: first.question, conversation_id: id }, 400, 'validation', 'message'],
        [{ regenerate: first.reply, message: 'x', conversation_id: id }, 400, 'validation', 'regenerate'],
        [
          { regenerate: first.reply, edit: first.reply, message: 'x', conversation_id: id },
          400,
          'validation',
          'edit,regenerate',
        ],
        [
          {
            regenerate: first.reply,
            tool_results: [{ tool_call_id: 'c', content: 'r' }],
            conversation_id: id,
          },
          400,
          'validation',
          'regenerate',
        ],
        [{ regenerate: 'x', conversation_id: id }, 400, 'validation', 'regenerate'],
        [{ regenerate: [first.reply], conversation_id: id }, 400, 'validation', 'regenerate'],
        [{ regenerate: null, conversation_id: id }, 400, 'validation', 'regenerate'],
        [{ edit: { $ne: '' }, message: 'x', conversation_id: id }, 400, 'validation', 'edit'],
        [{ edit: first.question, message: ' ', conversation_id: id }, 400, 'validation', 'message'],
        [
          { edit: (await chat.read(id)).messages[1]?.id, message: 'x', conversation_id: id },
          400,
          'validation',
          'edit',
        ],
        [{ regenerate: unknown, conversation_id: id }, 404, 'message_not_found'],
        [{ edit: unknown, message: 'x', conversation_id: id }, 404, 'message_not_found'],
        [{ regenerate: other.turns[0]?.reply, conversation_id: id }, 404, 'message_not_found'],
        [{ edit: other.turns[0]?.question, message: 'x', conversation_id: id }, 404, 'message_not_found'],
        [{ regenerate: first.reply, conversation_id: id }, 409, 'message_superseded'],
        [{ regenerate: turns[1]?.question, conversation_id: id }, 409, 'message_superseded'],
        [{ edit: turns[1]?.question, message: 'x', conversation_id: id }, 409, 'message_superseded'],
        [{ regenerate: first.reply, conversation_id: unknown }, 404, 'conversation_not_found'],
        [{ edit: first.question, message: 'x', conversation_id: unknown }, 404, 'conversation_not_found'],
      ] as const) {
        for (const route of ['chat', 'chat-stream']) {
          const document = problemOf(await chat.call('POST', `/api/${route}`, body), code, problem);
          if (path)
            assert.deepEqual(
              document.errors?.map((each) => each.path),
              path.split(','),
            );
        }
      }
      assert.equal(chat.upstream.requests.length, calls);
      assert.deepEqual(await said(id), ['q1', 'new']);
    });

    it('is refused in a deleted conversation', async () => {
      const { id, turns } = await converse(1);
      await chat.call('DELETE', `/api/conversations/${id}`);
      const body = { regenerate: turns[0]?.reply, conversation_id: id };
      problemOf(await chat.call('POST', '/api/chat', body), 404, 'conversation_not_found');
    });

    it('regenerate never reads the cache, edit does', async () => {
      chat.upstream.respond([reply('cached'), reply('other')]);
      const first = await chat.ask({ message: 'cached question' });
      const { conversation_id: id, message_id: regenerate } = first;
      const again = await chat.ask({ regenerate, conversation_id: id });
      assert.deepEqual([again.response, again.cached], ['other', false]);
      const [question] = (await chat.read(id)).messages;
      const edited = await chat.ask({ edit: question?.id, message: 'cached question', conversation_id: id });
      assert.deepEqual([edited.response, edited.cached], ['cached', true]);
      assert.deepEqual(await said(id), ['cached question', 'cached']);
    });

    it('a key gives the same reply again, also after a failed one was generated again', async () => {
      for (const make of [
        (turn: Turn) => ({ regenerate: turn.reply }),
        (turn: Turn) => ({ edit: turn.question, message: 'edited' }),
      ]) {
        const { id, turns } = await converse(1);
        const [turn] = turns;
        assert.ok(turn);
        const body = { ...make(turn), conversation_id: id, cache: false };
        const headers = { 'idempotency-key': randomUUID() };
        chat.upstream.respond([status(500), reply('new')]);
        assert.equal((await chat.call('POST', '/api/chat', body, headers)).status, 502);
        const first = await pair.b.call('POST', '/api/chat', body, headers);
        assert.equal(first.status, 200, first.text);
        const second = await chat.call('POST', '/api/chat', body, headers);
        assert.equal(second.headers['idempotent-replayed'], 'true');
        assert.equal(JSON.parse(second.text).message_id, JSON.parse(first.text).message_id);
        const changed = { ...body, format: 'text' };
        problemOf(await chat.call('POST', '/api/chat', changed, headers), 422, 'idempotency_mismatch');
        const question = 'edit' in body ? 'edited' : 'q1';
        assert.deepEqual(await said(id), [question, 'new']);
        assert.equal(
          (await chat.rows(id)).filter(({ content }) => content === 'edited').length,
          'edit' in body ? 1 : 0,
        );
      }
    });

    it('a key makes a reply anew that was cut after its first text, unless another one has its place', async () => {
      for (const make of [
        ({ reply }: Turn) => ({ regenerate: reply }),
        ({ question }: Turn) => ({ regenerate: question }),
        ({ question }: Turn) => ({ edit: question, message: 'edited' }),
      ]) {
        const { id, turns } = await converse(2);
        const [turn] = turns;
        assert.ok(turn);
        const body = { ...make(turn), conversation_id: id, cache: false };
        const headers = { 'idempotency-key': randomUUID() };
        const send = (server: ChatServer) => server.call('POST', '/api/chat-stream', body, headers);
        chat.upstream.respond([thenReset('half'), thenReset('other half'), reply('new')]);
        assert.match((await send(chat)).text, /upstream_incomplete/);
        const question = 'edit' in body ? 'edited' : 'q1';
        assert.deepEqual(await said(id), [question, 'half']);
        assert.match((await send(pair.b)).text, /upstream_incomplete/);
        assert.deepEqual(await said(id), [question, 'other half']);
        assert.match((await send(chat)).text, /event: done/);
        assert.deepEqual(sent(), [`u:${question}`]);
        assert.deepEqual(await said(id), [question, 'new']);
        assert.equal((await send(pair.b)).headers['idempotent-replayed'], 'true');
        const stored = (await chat.rows(id)).map(({ content }) => content);
        assert.deepEqual(
          stored.filter((content) => content === question || content.includes('half')),
          [question],
        );
      }
      const { id, turns } = await converse(1);
      const body = { regenerate: turns[0]?.reply, conversation_id: id };
      const headers = { 'idempotency-key': randomUUID() };
      chat.upstream.respond([status(500), reply('other')]);
      assert.equal((await chat.call('POST', '/api/chat', body, headers)).status, 502);
      await chat.ask(body);
      problemOf(await chat.call('POST', '/api/chat', body, headers), 409, 'message_superseded');
      assert.deepEqual(await said(id), ['q1', 'other']);
    });

    it('the stream of a superseded reply is still read to its end', async () => {
      const { id, turns } = await converse(1);
      chat.upstream.respond([reply('new')]);
      await chat.ask({ regenerate: turns[0]?.reply, conversation_id: id });
      const reader = await resumeStream(pair.b.url, turns[0]?.reply ?? '');
      const events = await reader.rest();
      assert.equal(joined(events), 'a1');
      assert.equal(events.at(-1)?.type, 'done');
    });
  });
}
