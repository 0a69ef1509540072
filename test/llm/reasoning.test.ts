import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ModelOutcome } from '../../src/domain/chat/model.ts';
import { UpstreamError } from '../../src/llm/errors.ts';
import { ReplyReader } from '../../src/llm/reply/reply-reader.ts';
import { chunk } from '../support/fake-upstream.ts';

interface Read {
  readonly reasoning: string;
  readonly text: string;
  readonly outcome: ModelOutcome | UpstreamError | 'capped' | undefined;
}

function read(body: string, cut = body.length, { tags = true, maxBytes = 100_000 } = {}): Read {
  const reader = new ReplyReader('m', maxBytes, tags);
  let text = '';
  let reasoning = '';
  for (let at = 0; at < body.length; at += cut) {
    reader.feed(body.slice(at, at + cut));
    text += reader.takeText();
    reasoning += reader.takeReasoning();
  }
  reader.end();
  text += reader.takeText() + reader.takeRest();
  reasoning += reader.takeReasoning() + reader.takeRestOfReasoning();
  const { verdict } = reader;
  return { text, reasoning, outcome: verdict === 'ended' ? reader.outcome() : verdict };
}

const STOP = `${chunk({}, 'stop')}data: [DONE]\n\n`;
const HI = chunk({ content: 'Hi' });
const message = (more: object) =>
  JSON.stringify({ choices: [{ index: 0, message: more, finish_reason: 'stop' }] });
const thinking = { type: 'thinking', thinking: [{ type: 'text', text: 'Hmm' }] };

const CASES: readonly (readonly [name: string, body: string, reasoning: string, text: string])[] = [
  [
    'as reasoning_content',
    chunk({ reasoning_content: 'H' }) + chunk({ reasoning_content: 'mm' }) + HI + STOP,
    'Hmm',
    'Hi',
  ],
  [
    'as reasoning',
    chunk({ reasoning: 'H', content: '' }) + chunk({ reasoning: 'mm', content: null }) + HI + STOP,
    'Hmm',
    'Hi',
  ],
  ['under both names', chunk({ reasoning: 'Hmm', reasoning_content: 'Hmm' }) + HI + STOP, 'Hmm', 'Hi'],
  [
    'beside text',
    chunk({ reasoning_content: 'Hmm', content: 'H' }) + chunk({ content: 'i' }) + STOP,
    'Hmm',
    'Hi',
  ],
  [
    'as null beside text',
    chunk({ reasoning_content: null, reasoning: null, content: 'Hi' }) + STOP,
    '',
    'Hi',
  ],
  [
    'as parts of the content',
    chunk({ content: [thinking] }) + chunk({ content: [{ type: 'text', text: 'Hi' }] }) + STOP,
    'Hmm',
    'Hi',
  ],
  [
    'in tags',
    chunk({ content: '<thi' }) + chunk({ content: 'nk>Hmm</think>' }) + chunk({ content: '\n\nHi' }) + STOP,
    'Hmm',
    'Hi',
  ],
  [
    'in a member and in tags',
    chunk({ reasoning: 'A' }) + chunk({ content: '<think>B</think>Hi' }) + STOP,
    'AB',
    'Hi',
  ],
  ['after the text', HI + chunk({ reasoning_content: 'Hmm' }) + STOP, 'Hmm', 'Hi'],
  ['whole', message({ content: 'Hi', reasoning_content: 'Hmm' }), 'Hmm', 'Hi'],
  ['whole, as reasoning', message({ content: 'Hi', reasoning: 'Hmm' }), 'Hmm', 'Hi'],
  ['whole, in tags', message({ content: '<think>Hmm</think>\n\nHi' }), 'Hmm', 'Hi'],
  ['alone', chunk({ reasoning_content: 'Hmm' }) + STOP, 'Hmm', ''],
  ['alone, in tags that stay open', chunk({ content: '<think>Hmm</thi' }) + STOP, 'Hmm</thi', ''],
  ['alone, whole', message({ content: null, reasoning_content: 'Hmm' }), 'Hmm', ''],
  [
    'and again in a message',
    `${chunk({ reasoning_content: 'Hmm' })}${HI}data: ${message({ content: 'Hi', reasoning_content: 'Hmm' })}\n\n`,
    'Hmm',
    'Hi',
  ],
  [
    'and again in a message with the text',
    `${chunk({ reasoning_content: 'Hmm' })}data: ${message({ content: 'Hi', reasoning_content: 'Hmm' })}\n\n`,
    'Hmm',
    'Hi',
  ],
  [
    'with odd characters',
    chunk({ reasoning: 'a\0\ud83e' }) + chunk({ reasoning: '\udd14\ud83e' }) + HI + STOP,
    'a\ufffd🤔\ufffd',
    'Hi',
  ],
];

describe('reasoning', () => {
  for (const [name, body, reasoning, text] of CASES) {
    it(name, () => {
      for (const cut of [body.length, 1, 7]) {
        const got = read(body, cut);
        assert.deepEqual([got.reasoning, got.text], [reasoning, text], `in pieces of ${cut}`);
        assert.ok(!(got.outcome instanceof UpstreamError) && got.outcome !== 'capped');
        assert.equal(got.outcome?.finishReason, 'stop');
      }
    });
  }

  it('in tags is text where the setting is off', () => {
    const got = read(chunk({ content: '<think>Hmm</think>Hi' }) + STOP, 9, { tags: false });
    assert.deepEqual([got.reasoning, got.text], ['', '<think>Hmm</think>Hi']);
  });

  it('alone may be ended by the token limit', () => {
    const { outcome } = read(chunk({ reasoning_content: 'Hmm' }) + chunk({}, 'length') + STOP.slice(-14));
    assert.ok(outcome && outcome !== 'capped' && !(outcome instanceof UpstreamError));
    assert.deepEqual([outcome.finishReason, outcome.truncated], ['length', false]);
  });

  it('of white space is none', () => {
    const { outcome } = read(chunk({ reasoning_content: ' \n' }) + STOP);
    assert.ok(outcome instanceof UpstreamError);
    assert.equal(outcome.error.code, 'upstream_empty');
  });

  it('counts for the limit of a reply', () => {
    const long = chunk({ reasoning: 'é'.repeat(100) });
    const got = read(long + chunk({ content: 'é'.repeat(100) }) + STOP, 50, { maxBytes: 250 });
    assert.deepEqual([got.reasoning.length, got.text.length, got.outcome], [100, 25, 'capped']);
  });
});

describe('a refusal', () => {
  const cases: readonly (readonly [string, string, true | undefined])[] = [
    ['in deltas', chunk({ refusal: 'I ' }) + chunk({ content: null, refusal: 'can’t.' }) + STOP, true],
    ['whole', message({ content: null, refusal: 'I can’t.' }), true],
    ['as a part', message({ content: [{ type: 'refusal', refusal: 'I can’t.' }] }), true],
    ['that is null is none', message({ content: 'I can’t.', refusal: null }), undefined],
    ['that is empty is none', message({ content: 'I can’t.', refusal: '' }), undefined],
  ];
  for (const [name, body, refusal] of cases) {
    it(name, () => {
      const { text, outcome } = read(body, 9);
      assert.ok(outcome && outcome !== 'capped' && !(outcome instanceof UpstreamError));
      assert.deepEqual([text, outcome.finishReason, outcome.refusal], ['I can’t.', 'stop', refusal]);
    });
  }
});

describe('the details of the token counts', () => {
  const usage = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 };
  for (const [name, details, expected] of [
    [
      'are read',
      { prompt_tokens_details: { cached_tokens: 2 }, completion_tokens_details: { reasoning_tokens: 0 } },
      { cached_tokens: 2, reasoning_tokens: 0 },
    ],
    [
      'may be null',
      { prompt_tokens_details: null, completion_tokens_details: { reasoning_tokens: 4 } },
      { reasoning_tokens: 4 },
    ],
    [
      'of the wrong type are left out',
      { prompt_tokens_details: { cached_tokens: '2' }, completion_tokens_details: [] },
      {},
    ],
  ] as const) {
    it(name, () => {
      const { outcome } = read(HI + chunk({}, 'stop', { usage: { ...usage, ...details } }));
      assert.ok(outcome && outcome !== 'capped' && !(outcome instanceof UpstreamError));
      assert.deepEqual(outcome.usage, { ...usage, ...expected });
    });
  }
});
