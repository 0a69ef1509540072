import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ContextTurns, type PastMessage, turnsWithin } from '../../../src/domain/conversations/context.ts';
import type { ContextMessage, ContextOptions } from '../../../src/domain/conversations/conversation.ts';

const call = (id: string) => ({ id, type: 'function' as const, function: { name: 'f', arguments: '{}' } });
const message = (
  uid: string,
  role: string,
  replyTo: string | null,
  more: Partial<PastMessage> = {},
): PastMessage => ({
  ...{ uid, role, replyTo, content: uid, status: 'complete', reasoning: null, details: null },
  ...more,
});
const question = (uid: string, more?: Partial<PastMessage>) => message(uid, 'user', null, more);
const answer = (uid: string, to: string, more?: Partial<PastMessage>) => message(uid, 'assistant', to, more);
/** A reply that asks for calls. */
const caller = (uid: string, to: string, ids: readonly string[], more: Partial<PastMessage> = {}) =>
  answer(uid, to, { content: '', details: { tool_calls: ids.map(call) }, ...more });
const result = (uid: string, to: string, id: string) =>
  message(uid, 'tool', to, { details: { tool_call_id: id } });

const turn = (n: number) => [question(`q${n}`), answer(`a${n}`, `q${n}`)];
/** A question with two calls and their results, and its reply. */
const tools = [
  question('q'),
  caller('c', 'q', ['x', 'y']),
  result('x', 'c', 'x'),
  result('y', 'c', 'y'),
  answer('a', 'y'),
];
/** The calls wait for their results. */
const waiting = tools.slice(0, 2);

function contextOf(messages: readonly PastMessage[], limit: number, options?: ContextOptions) {
  const turns = new ContextTurns(limit, options);
  // As readers do: they stop when it is full.
  for (const one of messages.toReversed()) if (!turns.full) turns.addOlder(one);
  return {
    uids: turns
      .context()
      .map(({ uid }) => uid)
      .join(' '),
    ...turns.state,
  };
}

describe('the context of whole exchanges', () => {
  for (const [name, messages, limit, expected] of [
    ['nothing within 0', [...turn(1), ...turn(2)], 0, ''],
    ['nothing within 1', [...turn(1), ...turn(2)], 1, ''],
    ['one exchange within 3', [...turn(1), ...turn(2)], 3, 'q2 a2'],
    ['two exchanges within 4', [...turn(1), ...turn(2), ...turn(3)], 4, 'q2 a2 q3 a3'],
    ['calls with their results', [...turn(1), ...tools], 10, 'q1 a1 q c x y a'],
    ['calls exactly within the limit', [...turn(1), ...tools], 5, 'q c x y a'],
    ['no part of calls', [...turn(1), ...tools], 4, ''],
    ['no older exchange in the place of a long one', [...turn(1), ...tools, ...turn(2)], 6, 'q2 a2'],
    ['no question without a reply', [...turn(1), question('q'), ...turn(2)], 10, 'q1 a1 q2 a2'],
    [
      'no reply that is being generated',
      [...turn(1), question('q'), answer('a', 'q', { status: 'streaming' })],
      10,
      'q1 a1',
    ],
    ['no reply without text', [question('q'), answer('a', 'q', { content: '' })], 10, ''],
    [
      'an incomplete and a cancelled reply',
      [
        question('q'),
        answer('a', 'q', { status: 'incomplete' }),
        question('p'),
        answer('b', 'p', { status: 'cancelled' }),
      ],
      10,
      'q a p b',
    ],
    ['the newest of two replies', [question('q'), answer('a', 'q'), answer('b', 'q')], 10, 'q b'],
    [
      'nothing that is superseded',
      [
        ...turn(1),
        question('q', { status: 'superseded' }),
        answer('a', 'q', { status: 'superseded' }),
        ...turn(2),
      ],
      10,
      'q1 a1 q2 a2',
    ],
    [
      'the reply that took the place of another one',
      [question('q'), answer('a', 'q', { status: 'superseded' }), answer('b', 'q')],
      10,
      'q b',
    ],
    ['no question whose calls were never answered', [...turn(1), ...waiting, ...turn(2)], 10, 'q1 a1 q2 a2'],
    [
      'no question of whose calls one was never answered',
      [question('q'), caller('c', 'q', ['x', 'y']), result('x', 'c', 'x'), answer('a', 'x'), ...turn(1)],
      10,
      'q1 a1',
    ],
    ['no question whose results have no reply', [...tools.slice(0, 4), ...turn(1)], 10, 'q1 a1'],
    [
      'the results that have a reply',
      [...tools.slice(0, 2), result('x0', 'c', 'x'), result('y0', 'c', 'y'), ...tools.slice(2)],
      10,
      'q c x y a',
    ],
    [
      'calls after calls',
      [...tools.slice(0, 4), caller('d', 'y', ['z']), result('z', 'd', 'z'), answer('a', 'z')],
      10,
      'q c x y d z a',
    ],
    [
      'calls after calls without an end',
      [...turn(1), ...tools.slice(0, 4), caller('d', 'y', ['z'])],
      10,
      'q1 a1',
    ],
    [
      'calls with a message between them and their results',
      [...waiting, question('p'), ...tools.slice(2)],
      10,
      'q c x y a',
    ],
  ] as const) {
    it(`has ${name}`, () => assert.equal(contextOf(messages, limit).uids, expected));
  }

  for (const [name, messages, limit, options, expected] of [
    ['calls that wait, beyond every limit', [...turn(1), ...waiting], 0, { open: 'calls' }, 'q c'],
    [
      'calls that wait, and what fits beside them',
      [...turn(1), ...turn(2), ...waiting],
      5,
      { open: 'calls' },
      'q2 a2 q c',
    ],
    [
      'earlier rounds of calls',
      [...tools.slice(0, 4), caller('d', 'y', ['z'])],
      1,
      { open: 'calls' },
      'q c x y d',
    ],
    ['calls behind a question without a reply', [...waiting, question('p')], 10, { open: 'calls' }, 'q c'],
    ['calls whose results had no reply', tools.slice(0, 4), 10, { open: 'calls' }, 'q c'],
    ['the exchange of a result', [...turn(1), ...tools.slice(0, 4)], 2, { open: { result: 'y' } }, 'q c x y'],
    ['the exchange of a result, without its earlier reply', tools, 10, { open: { result: 'y' } }, 'q c x y'],
  ] as const) {
    it(`that is being answered has ${name}`, () =>
      assert.equal(contextOf(messages, limit, options).uids, expected));
  }

  for (const [name, messages, expected] of [
    ['those of the newest reply', waiting, { open: { uid: 'c', calls: [call('x'), call('y')] } }],
    ['none when the newest reply has none', [...waiting, ...turn(1)], {}],
    ['none in an empty conversation', [], {}],
    ['none when their question is missing', waiting.slice(1), {}],
    [
      'none of a reply that is superseded',
      [question('q'), caller('c', 'q', ['x'], { status: 'superseded' })],
      {},
    ],
    [
      'none while a reply is generated',
      [...waiting, question('p'), answer('a', 'p', { status: 'streaming' })],
      { busy: true },
    ],
  ] as const) {
    it(`knows the calls to answer: ${name}`, () => {
      const { uids: _, ...state } = contextOf(messages, 10, { open: 'calls' });
      assert.deepEqual(state, expected);
    });
  }

  it('leaves out the question that is asked again', () => {
    assert.equal(contextOf([...turn(1), ...turn(2)], 10, { except: 'q2' }).uids, 'q1 a1');
  });

  it('sends reasoning again only with calls', () => {
    const turns = new ContextTurns(10);
    const reasoning = { reasoning: 'hm' };
    const all = [
      ...turn(1),
      question('q'),
      caller('c', 'q', ['x'], reasoning),
      result('x', 'c', 'x'),
      answer('a', 'x', reasoning),
    ];
    for (const one of all.toReversed()) turns.addOlder(one);
    const thinking = turns.context().filter((one) => one.reasoning !== undefined);
    assert.deepEqual(
      thinking.map(({ uid }) => uid),
      ['c'],
    );
  });
});

describe('the exchanges within a number of tokens', () => {
  const text = (role: ContextMessage['role'], content: string, more: object = {}): ContextMessage => ({
    role,
    content,
    ...more,
  });
  const [q, a] = [text('user', 'x'.repeat(40)), text('assistant', 'y'.repeat(40))];
  const png = { type: 'image_url' as const, image_url: { url: 'https://example.com/a.png' } };
  const called = [
    q,
    text('assistant', '', { toolCalls: [call('x')] }),
    text('tool', 'z'.repeat(40), { toolCallId: 'x' }),
    a,
  ];
  const tokens = (messages: readonly ContextMessage[]) => {
    let least = 0;
    while (turnsWithin(messages, least).length < messages.length) least += 1;
    return least;
  };

  it('are whole', () => {
    for (const [max, count] of [
      [0, 0],
      [19, 0],
      [20, 2],
      [39, 2],
      [40, 4],
      [1000, 4],
    ] as const) {
      assert.equal(turnsWithin([q, a, q, a], max).length, count, `${max}`);
    }
    const least = tokens(called);
    assert(least > 30);
    assert.deepEqual(turnsWithin(called, least - 1), []);
    assert.equal(turnsWithin([q, a, ...called], least).length, 4);
  });

  it('count images, calls and reasoning', () => {
    const seen = text('user', '', { parts: [png, png] });
    assert(tokens([seen, a]) >= 2000);
    const thinking = called.map((one) => (one.toolCalls ? { ...one, reasoning: 'r'.repeat(400) } : one));
    assert.equal(tokens(thinking), tokens(called) + 100);
  });

  it('have the exchange that is being answered, whatever its length', () => {
    assert.deepEqual(turnsWithin([q, a, ...called.slice(0, 3)], 0, true), called.slice(0, 3));
    assert.equal(turnsWithin([q, a, ...called.slice(0, 3)], 1000, true).length, 5);
    assert.deepEqual(turnsWithin([], 0, true), []);
  });
});
