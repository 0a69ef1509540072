import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { databases, until } from '../support/chat-server.ts';
import {
  chunk,
  createGate,
  delta,
  done,
  finish,
  type Handler,
  raw,
  reasoning,
  script,
  silence,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { type Pair, startPair } from '../support/pair.ts';
import { checkStream, joined, joinedReasoning, openStream, resumeStream } from '../support/sse-client.ts';

const THOUGHT = 'Hmm, 🤔 **let** me see';
const CALLS = [
  { id: 'a', type: 'function', function: { name: 'weather', arguments: '{"city":"Ghent"}' } },
  { id: 'b', type: 'function', function: { name: 'time', arguments: '{}' } },
];
const DETAILS = {
  prompt_tokens: 3,
  completion_tokens: 5,
  total_tokens: 8,
  prompt_tokens_details: { cached_tokens: 2 },
  completion_tokens_details: { reasoning_tokens: 4 },
};
const USAGE = {
  prompt_tokens: 3,
  completion_tokens: 5,
  total_tokens: 8,
  cached_tokens: 2,
  reasoning_tokens: 4,
};

const thinking: Handler = script(
  reasoning(THOUGHT.slice(0, 6)),
  reasoning(THOUGHT.slice(6)),
  delta('Hello'),
  delta(' there'),
  raw(chunk({}, 'stop', { usage: DETAILS })),
  done(),
);
const calling: Handler = script(
  reasoning(THOUGHT),
  raw(chunk({ tool_calls: CALLS.map((call, index) => ({ index, ...call })) })),
  finish('tool_calls'),
  usage(),
  done(),
);
const refusing: Handler = script(raw(chunk({ refusal: 'I can’t.' })), finish(), usage(), done());

for (const place of databases()) {
  describe(`the reasoning of a reply, on ${place.name},`, () => {
    let pair: Pair;
    before(async () => {
      pair = await startPair(place, { CHECKPOINT_MS: '50', SSE_HEARTBEAT_MS: '50' });
    });
    after(() => pair.stop());
    let count = 0;
    const question = (more: object = {}) => {
      count += 1;
      return { message: `question ${count}`, ...more };
    };
    const eventsOf = async (body: object, headers: Record<string, string> = {}) =>
      (await openStream(pair.a.url, body, { headers })).rest();
    const resumed = async (id: string, lastEventId?: string, url = pair.b.url) =>
      (await resumeStream(url, id, lastEventId === undefined ? {} : { lastEventId })).rest();
    const stored = async (uid = '') => {
      const [row] = await pair.a.server.database
        .knex('messages')
        .where({ uid })
        .select('content', 'status', 'finish_reason', 'reasoning', 'reasoning_length', 'details');
      assert(row, `no message ${uid}`);
      return { ...row, details: row.details === null ? null : JSON.parse(row.details) };
    };

    it('is in the JSON reply only where the request asks for it, and stored anyway', async () => {
      for (const wanted of [true, false, undefined]) {
        pair.a.upstream.respond([thinking]);
        const body = question({ cache: false, ...(wanted === undefined ? {} : { reasoning: wanted }) });
        const reply = await pair.a.ask(body);
        assert.deepEqual(
          [reply.response, reply.reasoning, reply.usage, reply.finish_reason],
          ['Hello there', wanted ? THOUGHT : undefined, USAGE, 'stop'],
        );
        const row = await stored(reply.message_id);
        assert.deepEqual(
          [row.reasoning, row.reasoning_length, row.content],
          [THOUGHT, THOUGHT.length, 'Hello there'],
        );
        assert.deepEqual(row.details, wanted ? { wants_reasoning: true } : null);
      }
    });

    it('comes in the stream before the text, without ids, and again from the beginning only', async () => {
      pair.a.upstream.respond([thinking]);
      const events = await eventsOf(question({ reasoning: true }));
      const { data, id: lastId } = checkStream(events);
      assert.deepEqual(
        [joinedReasoning(events), joined(events), data.usage],
        [THOUGHT, 'Hello there', USAGE],
      );
      const types = events.map(({ type }) => type).filter((type) => type !== 'ping');
      assert.deepEqual([...new Set(types)], ['start', 'reasoning', 'content', 'done']);
      const id = String(data.stream_id ?? lastId.split(':')[0]);
      for (const url of [pair.a.url, pair.b.url]) {
        for (const position of [undefined, `${id}:0`]) {
          const again = await resumed(id, position, url);
          checkStream(again);
          assert.deepEqual([joinedReasoning(again), joined(again)], [THOUGHT, 'Hello there']);
        }
        const later = await resumed(id, `${id}:1`, url);
        checkStream(later);
        assert.deepEqual([joinedReasoning(later), joined(later)], ['', 'ello there']);
      }
    });

    it('is in no stream whose turn did not ask for it', async () => {
      pair.a.upstream.respond([thinking]);
      const events = await eventsOf(question());
      const last = checkStream(events);
      assert.deepEqual([joinedReasoning(events), joined(events)], ['', 'Hello there']);
      assert.equal(joinedReasoning(await resumed(last.id.split(':')[0] ?? '')), '');
    });

    it('is followed at another worker from its beginning, while it grows, and so are tool calls', async () => {
      const gate = createGate();
      pair.a.upstream.respond([
        script(
          reasoning(THOUGHT.slice(0, 6)),
          wait(gate),
          reasoning(THOUGHT.slice(6)),
          delta('Hello'),
          raw(chunk({ tool_calls: CALLS })),
          finish('tool_calls'),
          done(),
        ),
      ]);
      const first = await openStream(pair.a.url, question({ reasoning: true }));
      const id = String(first.headers['x-stream-id']);
      const second = await resumeStream(pair.b.url, id);
      const events = [await second.until('start'), await second.until('reasoning')];
      // Half of a surrogate pair waits for the other.
      assert.equal(joinedReasoning(events), 'Hmm, ');
      gate.open();
      events.push(...(await second.rest()));
      const { data } = checkStream(events);
      assert.deepEqual([joinedReasoning(events), joined(events)], [THOUGHT, 'Hello']);
      assert.deepEqual([data.finish_reason, data.tool_calls], ['tool_calls', CALLS]);
      const own = await first.rest();
      assert.deepEqual(own.at(-1)?.data, data);
      assert.equal(joinedReasoning(own), THOUGHT);
    });

    it('comes from the cache for a caller who asks after one who did not, and from a shared call', async () => {
      const gate = createGate();
      pair.a.upstream.respond([script(reasoning(THOUGHT), wait(gate), delta('Hello'), finish(), done())]);
      const body = question();
      const requests = pair.a.upstream.requests.length;
      const running = eventsOf(body);
      await pair.a.upstream.waitForRequest(requests + 1);
      const joining = await openStream(pair.a.url, { ...body, reasoning: true });
      gate.open();
      await running;
      const shared = await joining.rest();
      assert.equal(joinedReasoning(shared), THOUGHT);
      const cached = await pair.a.ask({ ...body, reasoning: true });
      assert.deepEqual([cached.cached, cached.reasoning, cached.response], [true, THOUGHT, 'Hello']);
      assert.equal((await stored(cached.message_id)).reasoning, THOUGHT);
      const again = await eventsOf({ ...body, reasoning: true });
      assert.deepEqual([joinedReasoning(again), joined(again)], [THOUGHT, 'Hello']);
      assert.equal((await pair.a.ask(body)).reasoning, undefined);
    });

    it('comes again with the Idempotency-Key, on any worker, and so do tool calls', async () => {
      pair.a.upstream.respond([calling]);
      const body = question({ reasoning: true });
      const headers = { 'idempotency-key': crypto.randomUUID() };
      const answers = [];
      for (const server of [pair.a, pair.a, pair.b]) {
        const answer = await server.call('POST', '/api/chat', body, headers);
        answers.push(JSON.parse(answer.text));
      }
      const [first, ...others] = answers;
      assert.deepEqual([first.reasoning, first.tool_calls, first.response], [THOUGHT, CALLS, '']);
      assert.equal(first.finish_reason, 'tool_calls');
      for (const other of others) assert.deepEqual(other, first);
    });

    it('alone is no empty reply, with the end of a limit too', async () => {
      for (const [reason, wanted] of [
        ['stop', true],
        ['length', false],
      ] as const) {
        pair.a.upstream.respond([script(reasoning(THOUGHT), finish(reason), done())]);
        const events = await eventsOf(question({ reasoning: wanted }));
        const { type, data } = checkStream(events);
        assert.deepEqual([type, data.finish_reason, data.length], ['done', reason, 0]);
        assert.equal(joinedReasoning(events), wanted ? THOUGHT : '');
      }
    });

    it('is kept when the reply fails in it', async () => {
      pair.a.upstream.respond([script(reasoning(THOUGHT), silence())]);
      const stream = await openStream(pair.a.url, question({ reasoning: true }));
      const id = String(stream.headers['x-stream-id']);
      await until('the reasoning', async () => (await stored(id)).reasoning === THOUGHT);
      const { status, content } = await stored(id);
      assert.deepEqual([status, content], ['streaming', '']);
      await pair.b.call('DELETE', `/api/chat-stream/${id}`);
      const events = await stream.rest();
      assert.equal(checkStream(events).data.finish_reason, 'cancelled');
      const row = await stored(id);
      assert.deepEqual([row.status, row.reasoning], ['cancelled', THOUGHT]);

      pair.a.upstream.respond([script(reasoning(THOUGHT), done())]);
      const failed = await eventsOf(question({ reasoning: true }));
      const last = checkStream(failed);
      assert.deepEqual(
        [last.type, last.data.code, joinedReasoning(failed)],
        ['error', 'upstream_incomplete', THOUGHT],
      );
      const broken = await stored(last.id.split(':')[0]);
      assert.deepEqual(
        [broken.status, broken.finish_reason, broken.reasoning],
        ['incomplete', 'error', THOUGHT],
      );
    });

    it('in tags is cut out of the text', async () => {
      pair.a.upstream.respond([
        script(delta('<th'), delta('ink>Hm</thi'), delta('nk>\n\nHi'), finish(), done()),
      ]);
      const events = await eventsOf(question({ reasoning: true, format: 'markdown' }));
      checkStream(events);
      assert.deepEqual([joinedReasoning(events), joined(events)], ['Hm', 'Hi']);
    });

    it('of a long reply that is replayed comes in small parts', async () => {
      const long = 'Thinking. '.repeat(30_000);
      pair.a.upstream.respond([script(reasoning(long), delta('Hi'), finish(), done())]);
      const body = question({ reasoning: true });
      await eventsOf(body);
      const events = await eventsOf(body);
      checkStream(events);
      assert.equal(joinedReasoning(events), long);
      assert.ok(events.length > 10);
    });

    it('stands beside tool calls, which are stored, and not cached', async () => {
      const before = pair.a.upstream.requests.length;
      pair.a.upstream.respond([calling, calling]);
      const body = question({ reasoning: true });
      const events = await eventsOf(body);
      const { data, id } = checkStream(events);
      assert.deepEqual([data.finish_reason, data.tool_calls, data.length], ['tool_calls', CALLS, 0]);
      const row = await stored(id.split(':')[0]);
      assert.deepEqual(row.details, { wants_reasoning: true, tool_calls: CALLS });
      assert.deepEqual([row.status, row.finish_reason, row.reasoning], ['complete', 'tool_calls', THOUGHT]);
      assert.deepEqual((await pair.a.ask(body)).tool_calls, CALLS);
      assert.equal(pair.a.upstream.requests.length, before + 2);
    });

    it('is no part of a refusal, which is marked, also from the cache', async () => {
      pair.a.upstream.respond([refusing]);
      const body = question();
      const events = await eventsOf(body);
      const { data, id } = checkStream(events);
      assert.deepEqual([joined(events), data.refusal, data.finish_reason], ['I can’t.', true, 'stop']);
      assert.deepEqual((await stored(id.split(':')[0])).details, { refusal: true });
      const cached = await pair.a.ask(body);
      assert.deepEqual([cached.cached, cached.refusal, cached.response], [true, true, 'I can’t.']);
      assert.deepEqual((await resumed(id.split(':')[0] ?? '')).at(-1)?.data, data);
    });
  });
}
