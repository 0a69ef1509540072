import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ModelOutcome } from '../../src/domain/chat/model.ts';
import { UpstreamError } from '../../src/llm/errors.ts';
import { ReplyReader } from '../../src/llm/reply/reply-reader.ts';
import { chunk } from '../support/fake-upstream.ts';
import { cpuMs } from '../support/ticks.ts';

const DONE = 'data: [DONE]\n\n';
const END = chunk({}, 'tool_calls') + DONE;

function read(body: string, cut = body.length, maxBytes = 100_000): ModelOutcome | UpstreamError | 'capped' {
  const reader = new ReplyReader('m', maxBytes);
  for (let at = 0; at < body.length; at += cut) {
    reader.feed(body.slice(at, at + cut));
    reader.takeText();
    reader.takeReasoning();
  }
  reader.end();
  const { verdict } = reader;
  return verdict === 'ended' || verdict === undefined ? reader.outcome() : verdict;
}

/** The calls of a reply, ids that the reader has made up as `?`. */
function callsOf(body: string, cut?: number): string[] {
  const outcome = read(body, cut);
  assert.ok(outcome !== 'capped' && !(outcome instanceof UpstreamError), JSON.stringify(outcome));
  const { toolCalls = [] } = outcome;
  assert.equal(new Set(toolCalls.map(({ id }) => id)).size, toolCalls.length, 'each id once');
  return toolCalls.map(({ id, type, function: { name, arguments: args } }) => {
    assert.equal(type, 'function');
    return `${/^call_[\da-f]{32}$/.test(id) ? '?' : id} ${name} ${args}`;
  });
}

/** @param depth few enough for JSON.stringify here */
const nested = (depth: number): unknown => (depth === 0 ? [] : [nested(depth - 1)]);
const calls = (...tool_calls: object[]) => chunk({ tool_calls });
const entry = (args: unknown, name?: string, more: object = {}) => ({
  ...more,
  function: { ...(name !== undefined && { name }), arguments: args },
});
const whole = (message: object, finish_reason = 'tool_calls') =>
  JSON.stringify({
    choices: [{ index: 0, message: { role: 'assistant', content: null, ...message }, finish_reason }],
  });

const CITY = '{"city":"Ghent"}';
const [HEAD, TAIL] = ['{"city":', '"Ghent"}'];
const ONE = [`a weather ${CITY}`];
const TWO = [`a weather ${CITY}`, `b time {"zone":"CET"}`];
const BOTH = [
  entry(CITY, 'weather', { id: 'a', type: 'function' }),
  entry('{"zone":"CET"}', 'time', { id: 'b' }),
];

const CASES: readonly (readonly [name: string, body: string, calls: readonly string[]])[] = [
  [
    'in the form of OpenAI',
    calls(entry('', 'weather', { index: 0, id: 'a', type: 'function' })) +
      calls(entry(HEAD, undefined, { index: 0 })) +
      calls(entry(TAIL, undefined, { index: 0 })),
    ONE,
  ],
  [
    'without an index',
    calls(entry('', 'weather', { id: 'a' })) + calls(entry(HEAD)) + calls(entry(TAIL)),
    ONE,
  ],
  [
    'with the id repeated',
    calls(entry(HEAD, 'weather', { index: 0, id: 'a' })) +
      calls(entry(TAIL, undefined, { index: 0, id: 'a' })),
    ONE,
  ],
  [
    'with the id repeated, and no index',
    calls(entry(HEAD, 'weather', { id: 'a' })) + calls(entry(TAIL, undefined, { id: 'a' })),
    ONE,
  ],
  [
    'with id and name repeated',
    calls(entry(HEAD, 'weather', { index: 0, id: 'a' })) +
      calls(entry(TAIL, 'weather', { index: 0, id: 'a' })),
    ONE,
  ],
  [
    'with another id for each piece',
    calls(entry(HEAD, 'weather', { index: 0, id: 'a' })) +
      calls(entry(TAIL, undefined, { index: 0, id: 'x' })),
    ONE,
  ],
  [
    'with an empty or null name and id in later pieces',
    calls(entry(HEAD, 'weather', { index: 0, id: 'a' })) +
      calls({ index: 0, id: null, function: { name: null, arguments: TAIL } }) +
      calls({ index: 0, id: '', function: { name: '', arguments: '' } }),
    ONE,
  ],
  [
    'with the name in pieces',
    calls(entry('', 'wea', { index: 0, id: 'a' })) +
      calls(entry('', 'ther', { index: 0 })) +
      calls(entry(CITY, undefined, { index: 0 })),
    ONE,
  ],
  ['whole in one piece', calls(entry(CITY, 'weather', { index: 0, id: 'a' })), ONE],
  ['whole with the reason', chunk({ tool_calls: [BOTH[0]] }, 'tool_calls'), ONE],
  ['with arguments as an object', calls(entry({ city: 'Ghent' }, 'weather', { id: 'a' })), ONE],
  ['repeated whole', calls(BOTH[0] ?? {}) + calls(BOTH[0] ?? {}), ONE],
  [
    'repeated whole under an index',
    calls(entry(CITY, 'weather', { index: 0, id: 'a' })) +
      calls(entry(CITY, 'weather', { index: 0, id: 'a' })),
    ONE,
  ],
  ['in parallel, in one piece', calls(...BOTH), TWO],
  ['in parallel, one piece each', calls(BOTH[0] ?? {}) + calls(BOTH[1] ?? {}), TWO],
  [
    'in parallel, all under one index',
    calls({ ...BOTH[0], index: 0 }) + calls({ ...BOTH[1], index: 0 }),
    TWO,
  ],
  [
    'in parallel, in pieces that take turns',
    calls(entry('', 'weather', { index: 0, id: 'a' })) +
      calls(entry('', 'time', { index: 1, id: 'b' })) +
      calls(entry(HEAD, undefined, { index: 0 })) +
      calls(entry('{"zone":', undefined, { index: 1 }), entry(TAIL, undefined, { index: 0 })) +
      calls(entry('"CET"}', undefined, { index: 1 })),
    TWO,
  ],
  [
    'in parallel, with indexes that begin at 1',
    calls({ ...BOTH[0], index: 1 }) + calls({ ...BOTH[1], index: 2 }),
    TWO,
  ],
  [
    'in parallel, in pieces without index and id',
    calls(entry('', 'weather', { id: 'a' }), entry('', 'time', { id: 'b' })) +
      calls(entry(HEAD), entry('{"zone":')) +
      calls(entry(TAIL), entry('"CET"}')),
    TWO,
  ],
  [
    'in parallel, without ids',
    calls(entry({ city: 'Ghent' }, 'weather'), entry({ city: 'Lund' }, 'weather')),
    [`? weather ${CITY}`, '? weather {"city":"Lund"}'],
  ],
  [
    'in parallel, without ids and indexes, one after the other',
    calls(entry(CITY, 'weather')) + calls(entry('{"city":"Lund"}', 'weather')),
    [`? weather ${CITY}`, '? weather {"city":"Lund"}'],
  ],
  [
    'with one id for two',
    calls({ ...BOTH[0], index: 0 }, { ...BOTH[1], index: 1, id: 'a' }),
    [`a weather ${CITY}`, '? time {"zone":"CET"}'],
  ],
  ['without arguments', calls({ index: 0, id: 'a', function: { name: 'now' } }), ['a now {}']],
  ['without the member function', calls({ id: 'a', name: 'weather', arguments: CITY }), ONE],
  [
    'that are odd are left out',
    calls(entry(CITY, 'weather', { id: 'a' }), { id: 'x' }) + chunk({ tool_calls: [7, null] }),
    ONE,
  ],
  ['as one object', chunk({ tool_calls: BOTH[0] }), ONE],
  [
    'in the older form',
    chunk({ function_call: { name: 'weather', arguments: HEAD } }) +
      chunk({ function_call: { arguments: TAIL } }),
    [`? weather ${CITY}`],
  ],
  ['beside text', chunk({ content: 'Wait.', tool_calls: [BOTH[0]] }) + chunk({ content: 'x' }), ONE],
  ['and again in a message', `${calls(...BOTH)}data: ${whole({ tool_calls: BOTH })}\n\n`, TWO],
  ['in a message in place of deltas', `data: ${whole({ tool_calls: BOTH })}\n\n`, TWO],
  ['with arguments that are no JSON', calls(entry('oops {', 'weather', { id: 'a' })), ['a weather oops {']],
  [
    'with a lone surrogate and NUL',
    calls(entry('"\ud83d\0"', 'weather', { id: 'a' })),
    ['a weather "\ufffd\ufffd"'],
  ],
];

describe('tool calls', () => {
  for (const [name, body, expected] of CASES) {
    it(`${name}`, () => {
      for (const cut of [body.length, 1, 7]) assert.deepEqual(callsOf(body + END, cut), expected);
    });
  }

  it('of whole replies', () => {
    assert.deepEqual(callsOf(whole({ tool_calls: BOTH })), TWO);
    assert.deepEqual(callsOf(whole({ tool_calls: BOTH }, 'stop')), TWO);
    assert.deepEqual(
      callsOf(whole({ function_call: { name: 'weather', arguments: CITY } }, 'function_call')),
      [`? weather ${CITY}`],
    );
  });

  for (const reason of ['tool_calls', 'stop', 'function_call', 'tool_use', 'eos']) {
    it(`end with tool_calls, also where the server says ${reason}`, () => {
      const outcome = read(calls(...BOTH) + chunk({}, reason) + DONE);
      assert.ok(outcome !== 'capped' && !(outcome instanceof UpstreamError));
      assert.deepEqual([outcome.finishReason, outcome.toolCalls?.length], ['tool_calls', 2]);
    });
  }

  it('that a limit or the filter has cut are none', () => {
    const cut = calls(entry(HEAD, 'weather', { index: 0, id: 'a' }));
    const limited = read(cut + chunk({}, 'length') + DONE);
    assert.ok(limited instanceof UpstreamError);
    assert.equal(limited.error.code, 'upstream_empty');
    const said = read(chunk({ content: 'Wait.' }) + cut + chunk({}, 'length') + DONE);
    assert.ok(said !== 'capped' && !(said instanceof UpstreamError));
    assert.deepEqual([said.finishReason, said.toolCalls], ['length', undefined]);
    const filtered = read(cut + chunk({}, 'content_filter') + DONE);
    assert.ok(filtered !== 'capped' && !(filtered instanceof UpstreamError));
    assert.deepEqual([filtered.finishReason, filtered.toolCalls], ['content_filter', undefined]);
    assert.ok(read(cut + DONE) instanceof UpstreamError, 'no finish_reason');
  });

  it('of the reason tool_calls without any are a plain end', () => {
    const outcome = read(chunk({ content: 'Hi' }) + END);
    assert.ok(outcome !== 'capped' && !(outcome instanceof UpstreamError));
    assert.deepEqual([outcome.finishReason, outcome.toolCalls], ['stop', undefined]);
  });

  it('keep the members that only their provider knows', () => {
    const signed = (extra: object) => chunk({ tool_calls: [{ index: 0, ...BOTH[0], ...extra }] });
    const signature = { google: { thought_signature: 'c2ln' } };
    const others = { a: null, '\ud83d': 1, b: '\0', deep: nested(200), ['__proto__']: 1 };
    const body = signed({ extra_content: signature, ...others }) + signed({ later: [1] }) + END;
    for (const cut of [body.length, 1]) {
      const outcome = read(body, cut);
      assert.ok(outcome !== 'capped' && !(outcome instanceof UpstreamError));
      assert.deepEqual(outcome.toolCalls, [
        { ...BOTH[0], type: 'function', extra_content: signature, later: [1] },
      ]);
      // The order in which an import stores them too.
      const names = ['id', 'type', 'function', 'extra_content', 'later'];
      assert.deepEqual(Object.keys(outcome.toolCalls?.[0] ?? {}), names);
    }
    assert.equal(read(signed({ a: 'x'.repeat(1000) }) + END, undefined, 1000), 'capped');
  });

  it('with very many such members do not block the event loop', () => {
    const others = Object.fromEntries(Array.from({ length: 8000 }, (_, n) => [`k${n}`, 1]));
    const started = cpuMs();
    const outcome = read(calls({ ...BOTH[0], ...others }) + END, undefined, 1_000_000);
    assert.ok(outcome !== 'capped' && !(outcome instanceof UpstreamError));
    assert.deepEqual(outcome.toolCalls, [{ ...BOTH[0], ...others }]);
    // Copying the members for each of them took 20 s.
    assert.ok(cpuMs() - started < 5000);
  });

  it('with arguments that are nested too deeply have none', () => {
    const body = chunk({ tool_calls: [{ id: 'a', function: { name: 'weather', arguments: '@' } }] });
    const deep = body.replace('"@"', '['.repeat(9000) + ']'.repeat(9000));
    assert.deepEqual(callsOf(deep + END), ['a weather {}']);
  });

  it('count for the limit of a reply', () => {
    const long = calls(entry('x'.repeat(600), 'weather', { index: 0, id: 'a' }));
    assert.notEqual(read(long + END, undefined, 1000), 'capped');
    assert.equal(read(long + long + END, undefined, 1000), 'capped');
    const many = calls(...Array.from({ length: 50 }, (_, index) => ({ index, id: `${index}` })));
    assert.equal(read(many + END, undefined, 1000), 'capped');
  });
});
