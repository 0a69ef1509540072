import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { UpstreamError } from '../../src/llm/errors.ts';
import { ReplyReader } from '../../src/llm/reply/reply-reader.ts';
import { chunk } from '../support/fake-upstream.ts';
import { cpuMs } from '../support/ticks.ts';

/** What came of a body: its text, and the finish reason or the error code. */
interface Read {
  readonly text: string;
  readonly end: string | undefined;
  readonly reported: string | undefined;
  readonly detail: string | undefined;
}

function read(body: string, cut: number): Read {
  const reader = new ReplyReader('m', 100_000);
  reader.response = { status: 200, requestId: undefined };
  let text = '';
  for (let at = 0; at < body.length; at += cut) {
    reader.feed(body.slice(at, at + cut));
    text += reader.takeText();
    reader.takeReasoning();
  }
  reader.end();
  text += reader.takeText() + reader.takeRest();
  reader.takeRestOfReasoning();
  const { verdict } = reader;
  const end = verdict === 'ended' ? reader.outcome() : verdict;
  if (end instanceof UpstreamError) {
    const { message, code } = end.details.reported ?? {};
    return { text, end: end.error.code, reported: message ?? code, detail: end.error.message };
  }
  return { text, end: end === 'capped' ? end : end?.finishReason, reported: undefined, detail: undefined };
}

const DONE = 'data: [DONE]\n\n';
const STOP = chunk({}, 'stop') + DONE;
const HELLO = chunk({ content: 'Hello ' }) + chunk({ content: 'world.' });
const event = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`;
const whole = (message: object, finish_reason: unknown = 'stop', more: object = {}) =>
  JSON.stringify({
    choices: [{ index: 0, message: { role: 'assistant', ...message }, finish_reason }],
    ...more,
  });
const choice = (more: object) => event({ choices: [{ index: 0, ...more }] });
const EMPTY_ERROR = { error: { message: '', type: '', param: '', code: null } };

type Case = readonly [name: string, body: string, text: string, end: string];

/** Every body is read in one piece and byte by byte. */
function check(cases: readonly Case[]): void {
  for (const [name, body, text, end] of cases) {
    it(name, () => {
      for (const cut of [body.length || 1, 1, 7]) {
        const got = read(body, cut);
        assert.deepEqual([got.text, got.end], [text, end], `in pieces of ${cut}`);
      }
    });
  }
}

describe('a finish_reason', () => {
  const MEANINGS: readonly (readonly [string, string])[] = [
    ...[
      'stop',
      'STOP',
      'eos',
      'eos_token',
      'end_turn',
      'stop_sequence',
      'tool_calls',
      'function_call',
      'COMPLETE',
    ].map((reason) => [reason, 'stop'] as const),
    ...[
      'length',
      'max_tokens',
      'MAX_TOKENS',
      'maxTokens',
      'model_length',
      'model_context_window_exceeded',
    ].map((reason) => [reason, 'length'] as const),
    ...[
      'content_filter',
      'SAFETY',
      'RECITATION',
      'sensitive',
      'PROHIBITED_CONTENT',
      'content-filter',
      'refusal',
    ].map((reason) => [reason, 'content_filter'] as const),
    ...[
      'abort',
      'network_error',
      'insufficient_system_resource',
      'OTHER',
      'cancelled',
      'constructor',
      '完成',
    ].map((reason) => [reason, 'upstream_incomplete'] as const),
    ...['null', '', 'NONE', 'FINISH_REASON_UNSPECIFIED'].map(
      (reason) => [reason, 'upstream_incomplete'] as const,
    ),
    ['error', 'upstream_error'],
    ['ERROR', 'upstream_error'],
  ];
  for (const [reason, meaning] of MEANINGS) {
    it(`${JSON.stringify(reason)} means ${meaning}`, () => {
      for (const body of [HELLO + chunk({}, reason) + DONE, whole({ content: 'Hello world.' }, reason)]) {
        assert.equal(read(body, body.length).end, meaning);
      }
    });
  }

  it('that is unknown is in the log', () => {
    assert.equal(read(HELLO + chunk({}, 'abort') + DONE, 1000).reported, 'abort');
  });

  it('is final when it comes for itself after the first token, until more text comes', () => {
    const reader = new ReplyReader('m', 1000);
    const isFinalAfter = (...pieces: string[]) => {
      for (const piece of pieces) reader.feed(piece);
      return reader.isFinal;
    };
    assert.equal(isFinalAfter(chunk({ role: 'assistant', content: '' }, 'stop')), false);
    assert.equal(isFinalAfter(chunk({ reasoning_content: 'hm' }, 'stop')), false);
    assert.equal(isFinalAfter(chunk({ content: 'a' }, 'stop')), false);
    assert.equal(isFinalAfter(chunk({}, 'stop')), true);
    assert.equal(isFinalAfter(chunk({ content: 'b' })), false);
    assert.equal(
      isFinalAfter(event({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } })),
      true,
    );
  });

  it('of the filter may leave nothing', () => {
    assert.deepEqual(read(chunk({}, 'sensitive') + DONE, 1000).end, 'content_filter');
  });

  check([
    [
      '"null" with each piece is none',
      chunk({ content: 'a' }, 'null') + chunk({ content: 'b' }, 'null') + STOP,
      'ab',
      'stop',
    ],
    [
      'with each piece counts at the end',
      chunk({ content: 'a' }, 'stop') + chunk({ content: 'b' }, 'length') + DONE,
      'ab',
      'length',
    ],
    [
      'before more text does not end the reply',
      HELLO + chunk({}, 'stop') + chunk({ content: ' More.' }) + DONE,
      'Hello world. More.',
      'stop',
    ],
    [
      'is found as finishReason',
      HELLO + choice({ delta: {}, finish_reason: null, finishReason: 'stop' }) + DONE,
      'Hello world.',
      'stop',
    ],
    [
      'is found in the delta',
      HELLO + choice({ delta: { finish_reason: 'stop' } }) + DONE,
      'Hello world.',
      'stop',
    ],
    ['is missing: the reply is not known to be whole', HELLO + DONE, 'Hello world.', 'upstream_incomplete'],
    [
      'of another type is none',
      HELLO + choice({ delta: {}, finish_reason: 0 }) + DONE,
      'Hello world.',
      'upstream_incomplete',
    ],
  ]);
});

describe('content', () => {
  const thinking = { type: 'thinking', thinking: [{ type: 'text', text: 'Hmm' }] };
  const parts = [thinking, { type: 'text', text: 'Hello ' }, 'world', { type: 'refusal', refusal: '.' }];
  check([
    ['in parts is joined without reasoning', chunk({ content: parts }) + STOP, 'Hello world.', 'stop'],
    ['in parts, whole', whole({ content: parts }), 'Hello world.', 'stop'],
    [
      'in parts beside pieces of text',
      chunk({ content: [{ type: 'text', text: 'Hello ' }] }) + chunk({ content: 'world.' }) + STOP,
      'Hello world.',
      'stop',
    ],
    ['as one part', whole({ content: { type: 'output_text', text: { value: 'Hello' } } }), 'Hello', 'stop'],
    ['of reasoning parts only is not empty', chunk({ content: [thinking] }) + STOP, '', 'stop'],
    [
      'odd parts are left out',
      whole({ content: [null, 7, { type: 'image_url' }, { type: 'text', text: 7 }, { text: 'x' }] }),
      'x',
      'stop',
    ],
    [
      'null with a refusal is the refusal',
      chunk({ content: null, refusal: 'I ' }) + chunk({ refusal: 'can’t.' }) + STOP,
      'I can’t.',
      'stop',
    ],
    ['null with a refusal, whole', whole({ content: null, refusal: 'I can’t.' }), 'I can’t.', 'stop'],
    ['wins over a refusal', whole({ content: 'Hello', refusal: 'no' }), 'Hello', 'stop'],
    [
      'in message in place of delta',
      choice({ message: { content: 'Hello ' } }) +
        choice({ message: { content: 'world.' }, finish_reason: 'stop' }),
      'Hello world.',
      'stop',
    ],
    [
      'in message after deltas is a repetition',
      HELLO + choice({ delta: {}, message: { content: 'Hello world.' }, finish_reason: 'stop' }),
      'Hello world.',
      'stop',
    ],
    ['in text, as in the older API', choice({ text: 'Hello', finish_reason: 'stop' }), 'Hello', 'stop'],
    [
      'of white space is empty',
      chunk({ content: ' \n' }) + chunk({ content: '\u200b\u3000' }) + STOP,
      ' \n\u200b\u3000',
      'upstream_empty',
    ],
    ['of white space is empty, whole', whole({ content: '  \n' }), '  \n', 'upstream_empty'],
  ]);

  it('that is missing because of a limit says so', () => {
    const hidden = chunk({ reasoning_details: [{ type: 'reasoning.encrypted', data: 'x' }] });
    assert.match(read(hidden + chunk({}, 'length') + DONE, 1000).detail ?? '', /token limit/);
    assert.match(read(hidden + STOP, 1000).detail ?? '', /reasoning/);
  });

  it('that is white space alone is not taken for reasoning', () => {
    for (const body of [
      chunk({ content: ' \n' }) + STOP,
      whole({ content: [{ type: 'text', text: ' ' }] }),
    ]) {
      assert.match(read(body, 1000).detail ?? '', /white space/);
    }
  });
});

describe('an error member', () => {
  for (const error of [EMPTY_ERROR.error, {}, false, '', [], 0]) {
    it(`${JSON.stringify(error)} beside a reply says nothing`, () => {
      const bodies = [
        chunk({ content: 'Hello' }, null, { error }) + chunk({}, 'stop', { error }) + DONE,
        whole({ content: 'Hello' }, 'stop', { error }),
      ];
      for (const body of bodies) assert.deepEqual([read(body, 9).text, read(body, 9).end], ['Hello', 'stop']);
    });
  }
  check([
    ['without a choice is an error even when empty', event(EMPTY_ERROR), '', 'upstream_error'],
    ['as a text', event({ error: 'overloaded' }), '', 'upstream_error'],
    ['of a code that is a status', event({ error: { code: 429, message: 'x' } }), '', 'upstream_busy'],
    ['without quota', JSON.stringify({ error: { code: 'insufficient_quota' } }), '', 'upstream_quota'],
    ['in a list', JSON.stringify([{ error: { code: 503, message: 'x' } }]), '', 'upstream_busy'],
    [
      'in an event named error',
      `${HELLO}event: error\ndata: upstream timed out\n\n`,
      'Hello world.',
      'upstream_error',
    ],
    [
      'outside of error, where no reply comes',
      JSON.stringify({ code: 'InvalidParameter', message: 'bad' }),
      '',
      'upstream_error',
    ],
    [
      'after a reply is of no interest',
      `${HELLO}${chunk({}, 'stop')}${event({ error: 'late' })}`,
      'Hello world.',
      'stop',
    ],
  ]);

  it('is retried before the first token, and not after it', () => {
    const busy = event({ error: { code: 429, message: 'x' } });
    for (const [before, expected] of [
      ['', true],
      [HELLO, false],
    ] as const) {
      const reader = new ReplyReader('m', 1000);
      reader.feed(before + busy);
      assert(reader.verdict instanceof UpstreamError);
      assert.equal(reader.verdict.retryable, expected);
    }
  });
});

describe('the framing', () => {
  const lines = (HELLO + STOP).replaceAll('\n\n', '\n');
  const pretty = JSON.stringify(JSON.parse(whole({ content: 'Hello' })), null, 2);
  const nan = (HELLO + STOP).replace(
    '"index":0',
    '"logprobs":{"x":NaN,"y":[-Infinity,"NaN \\" NaN"]},"index":0',
  );
  const prettyEvent = `data: ${pretty.replaceAll('\n', '\ndata: ')}\n\n`;
  check([
    ['events', HELLO + STOP, 'Hello world.', 'stop'],
    ['events with a byte order mark', `\ufeff${HELLO}${STOP}`, 'Hello world.', 'stop'],
    ['events without empty lines', lines, 'Hello world.', 'stop'],
    ['events without empty lines, CRLF', lines.replaceAll('\n', '\r\n'), 'Hello world.', 'stop'],
    [
      'events without empty lines, with names',
      lines.replaceAll('data:', 'event: message\ndata:'),
      'Hello world.',
      'stop',
    ],
    ['an event of many lines', prettyEvent + DONE, 'Hello', 'stop'],
    [
      'a ping with a text',
      `event: ping\ndata: 2026-04-27 01:35:43.686\n\n${HELLO}${STOP}`,
      'Hello world.',
      'stop',
    ],
    [
      'a ping with an object',
      `event: ping\ndata: {"type":"ping"}\n\n${HELLO}${STOP}`,
      'Hello world.',
      'stop',
    ],
    [
      'a notice',
      `${event({ type: 'status', message: 'loading the model' })}${HELLO}${STOP}`,
      'Hello world.',
      'stop',
    ],
    [
      'null, numbers and words',
      `data: null\n\ndata: 7\n\ndata: "x"\n\ndata: wait\n\n${HELLO}${STOP}`,
      'Hello world.',
      'stop',
    ],
    ['numbers that JSON does not have', nan, 'Hello world.', 'stop'],
    ['a broken chunk', `${HELLO}data: {"choices":\n\n${STOP}`, 'Hello world.', 'upstream_error'],
    ['one object', whole({ content: 'Hello' }), 'Hello', 'stop'],
    [
      'one object with a byte order mark and white space',
      `\ufeff \n\n${whole({ content: 'Hello' })}\n`,
      'Hello',
      'stop',
    ],
    ['one object over many lines', pretty, 'Hello', 'stop'],
    ['one object and [DONE]', `${whole({ content: 'Hello' })}\n\n${DONE}`, 'Hello', 'stop'],
    ['one object over many lines and [DONE]', `${pretty}\n\n${DONE}`, 'Hello', 'stop'],
    ['an object on each line', (HELLO + STOP).replaceAll('data: ', ''), 'Hello world.', 'stop'],
    [
      'a list of chunks',
      `[${HELLO.replaceAll('data: ', '').trim().replaceAll('\n\n', ',')},${chunk({}, 'stop').slice(6)}]`,
      'Hello world.',
      'stop',
    ],
    ['one object without a reason', whole({ content: 'Hello' }, null), 'Hello', 'upstream_incomplete'],
    ['one object that is cut', whole({ content: 'Hello' }).slice(0, -9), '', 'upstream_error'],
    ['no choices', '{"choices":[]}', '', 'upstream_empty'],
    ['a page', '<html><body>Login</body></html>', '', 'upstream_error'],
    ['words', 'Service temporarily unavailable', '', 'upstream_error'],
    ['nothing', '', '', 'upstream_incomplete'],
    ['white space', '\n \n', '', 'upstream_incomplete'],
    ['comments', ': ping\n\n', '', 'upstream_incomplete'],
    ['words for each event', 'data: one\n\ndata: two\n\n', '', 'upstream_incomplete'],
  ]);

  it('reads the log probabilities of very many events without blocking the event loop', () => {
    const token = event({ choices: [{ delta: { content: 'a' }, logprobs: { content: [{}] } }] });
    const reader = new ReplyReader('m', 1_000_000);
    const started = cpuMs();
    reader.feed(token.repeat(40_000) + STOP);
    assert.equal(reader.takeLogprobs()?.content.length, 40_000);
    assert.equal(reader.takeLogprobs(), undefined);
    // Copying the list for each event took 15 s.
    assert.ok(cpuMs() - started < 5000);
  });

  it('shows each piece as it comes, also without empty lines', () => {
    const reader = new ReplyReader('m', 1000);
    const seen = lines.split(/(?<=\n)/).map((line) => {
      reader.feed(line);
      return reader.takeText();
    });
    // The second line shows that one line break ends an event.
    assert.deepEqual(seen, ['', 'Hello world.', '', '']);
    assert.equal(reader.verdict, 'ended');
  });

  it('is bounded', () => {
    for (const start of ['data: {"x":"', '{"x":"', 'data: {}\ndata: {}\ndata: {"x":"']) {
      const reader = new ReplyReader('m', 1000);
      reader.feed(start);
      for (let n = 0; n < 200 && !reader.verdict; n++) reader.feed('x'.repeat(1000));
      assert.equal(reader.verdict, 'capped', start);
    }
  });
});
