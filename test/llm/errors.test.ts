import assert from 'node:assert/strict';
import { describe, it, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { classifyError } from '../../src/llm/errors.ts';
import { loggedError, readErrorBody, readReportedError } from '../../src/llm/reported-error.ts';
import { HELLO, KEY, never, setUp } from './setup.ts';

describe('what a model server says about an error', () => {
  for (const [server, body, expected] of [
    [
      'OpenAI',
      {
        error: {
          message: 'Unsupported parameter',
          type: 'invalid_request_error',
          param: 'max_tokens',
          code: 'unsupported_parameter',
        },
      },
      {
        message: 'Unsupported parameter',
        type: 'invalid_request_error',
        param: 'max_tokens',
        code: 'unsupported_parameter',
      },
    ],
    ['Ollama', { error: "model 'x' not found" }, { message: "model 'x' not found" }],
    [
      'vLLM',
      { object: 'error', message: 'too long', type: 'BadRequestError', param: null, code: 400 },
      { message: 'too long', type: 'BadRequestError', code: '400', status: 400 },
    ],
    [
      'FastAPI',
      {
        detail: [
          { type: 'extra_forbidden', loc: ['body', 'stream_options'], msg: 'Extra inputs', input: {} },
        ],
      },
      { message: 'Extra inputs', type: 'extra_forbidden', param: 'stream_options' },
    ],
    [
      'Mistral',
      {
        object: 'error',
        message: { detail: [{ type: 'missing', loc: ['body', 'x'], msg: 'Field required' }] },
      },
      { message: 'Field required', type: 'missing', param: 'x' },
    ],
    ['FastAPI, a text', { detail: 'Not Found' }, { message: 'Not Found' }],
    [
      'Google',
      [{ error: { code: 429, message: 'exhausted', status: 'RESOURCE_EXHAUSTED' } }],
      { message: 'exhausted', code: '429', status: 429 },
    ],
    [
      'Anthropic',
      { type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } },
      { message: 'Overloaded', type: 'overloaded_error', status: 503 },
    ],
    ['DashScope', { code: 'InvalidParameter', message: 'bad' }, { message: 'bad', code: 'InvalidParameter' }],
    ['Databricks', { error_code: 'BAD_REQUEST', message: 'bad' }, { message: 'bad', code: 'BAD_REQUEST' }],
    [
      'OpenRouter',
      { error: { code: '502', message: '', metadata: { raw: 'the cause' } } },
      { message: 'the cause', code: '502', status: 502 },
    ],
  ] as const) {
    it(`is read: ${server}`, () => {
      const read = readErrorBody(JSON.stringify(body));
      assert.deepEqual({ ...read, ...expected }, { ...read });
      for (const [name, value] of Object.entries(read ?? {})) {
        assert.equal(value, (expected as Record<string, unknown>)[name], name);
      }
    });
  }

  it('is read from text and from web pages', () => {
    assert.equal(readErrorBody('upstream\n connect error')?.message, 'upstream connect error');
    const page = '<html><style>p{}</style><body><h1>404 Not Found</h1></body>';
    assert.equal(readErrorBody(page)?.message, '404 Not Found');
  });

  it('is nothing where nothing is said', () => {
    const empty = { message: '', type: '', param: '', code: null };
    for (const said of [
      undefined,
      null,
      false,
      true,
      0,
      '',
      ' ',
      {},
      [],
      empty,
      { error: empty },
      { code: 0 },
    ]) {
      assert.equal(readReportedError(said), undefined, JSON.stringify(said));
    }
    assert.equal(readErrorBody(''), undefined);
  });

  it('survives deep nesting and odd members', () => {
    const deep = `${'{"error":'.repeat(5000)}1${'}'.repeat(5000)}`;
    assert.equal(readErrorBody(deep), undefined);
    assert.equal(readErrorBody('{"error":{"message":{"x":1},"code":{},"type":["a"],"param":7}}'), undefined);
  });
});

describe('the log of an upstream error', () => {
  const SAID = 'tell me about the secret garden, please';
  const logged = (message: string) =>
    String(loggedError({ message }, { secrets: [KEY], prompts: [SAID, 'hello'] }).upstream_error_message);

  it('hides keys, tokens and passwords', () => {
    for (const secret of [
      KEY,
      'sk-proj-abcdefghij0123456789',
      'sk-proj-********************abcd',
      'AIzaSyA1234567890abcdefghijkl',
      'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl',
      '0123456789abcdef0123456789abcdef',
    ]) {
      assert.equal(
        logged(`Incorrect API key provided: ${secret} here`),
        'Incorrect API key provided: [hidden] here',
      );
    }
    assert.doesNotMatch(logged('Authorization: Bearer abc.def-123456'), /abc/);
    assert.doesNotMatch(logged('at https://user:hunter2@host/v1?api_key=abcd1234&x=1'), /hunter2|abcd1234/);
    assert.doesNotMatch(logged('{"api_key": "abcd1234"}'), /abcd1234/);
  });

  it('hides what the caller wrote', () => {
    assert.equal(logged(`Invalid value: '${SAID.slice(0, 30)}…`), "Invalid value: '[hidden]");
    assert.equal(logged('bad word: hello!'), 'bad word: [hidden]!');
  });

  it('keeps names of models and cuts at 500 characters', () => {
    const message =
      'The model `meta-llama/Llama-3.1-8B-Instruct-Turbo` or claude-3-5-sonnet-20241022 does not exist';
    assert.equal(logged(message), message);
    assert.equal(logged('word '.repeat(200)).length, 500);
  });
});

for (const [name, code, body, expected, hint] of [
  ['no quota', 429, { error: { type: 'insufficient_quota' } }, 'upstream_quota', /credit or quota/],
  ['no quota, by type', 429, { error: { type: 'exceeded_current_quota_error' } }, 'upstream_quota', /credit/],
  ['no balance', 402, { error: { message: 'Insufficient Balance' } }, 'upstream_quota', /credit/],
  ['no credit', 400, { error: { message: 'Your credit balance is too low' } }, 'upstream_quota', /credit/],
  ['DashScope in arrears', 400, { code: 'Arrearage', message: 'Access denied' }, 'upstream_quota', /credit/],
  ['a rate limit', 429, { error: { code: 'rate_limit_exceeded' } }, 'upstream_busy', /busy/],
  [
    'a quota per minute',
    429,
    [{ error: { code: 429, status: 'RESOURCE_EXHAUSTED', message: 'You exceeded your current quota' } }],
    'upstream_busy',
    /busy/,
  ],
  ['a wrong key', 401, {}, 'upstream_error', /OPENAI_API_KEY/],
  [
    'a wrong key as 400',
    400,
    [{ error: { code: 400, message: 'API key not valid.' } }],
    'upstream_error',
    /OPENAI_API_KEY/,
  ],
  ['a key without rights', 403, {}, 'upstream_error', /OPENAI_API_KEY/],
  ['a wrong address', 404, { detail: 'Not Found' }, 'upstream_rejected', /\/v1/],
  [
    'an unknown model',
    404,
    { error: "model 'x' not found" },
    'upstream_rejected',
    /does not know this model/,
  ],
  ['an unknown model as 400', 400, { error: { message: 'Model Not Exist' } }, 'upstream_rejected', /model/],
  [
    'Azure’s filter',
    400,
    { error: { code: 'content_filter', message: 'x' } },
    'upstream_filtered',
    /message/,
  ],
  ['DashScope’s filter', 400, { code: 'DataInspectionFailed', message: 'x' }, 'upstream_filtered', /message/],
  ['DeepSeek’s filter', 400, { error: { message: 'Content Exists Risk' } }, 'upstream_filtered', /message/],
  ['a redirect', 307, {}, 'upstream_rejected', /OPENAI_BASE_URL/],
  ['another 400', 400, { error: { message: 'bad' } }, 'upstream_rejected', /length of the conversation/],
] as const) {
  test(`${name} (${code}) is ${expected}`, () => {
    const { error } = classifyError(code, readErrorBody(JSON.stringify(body)), { requestId: undefined });
    assert.equal(error.code, expected);
    assert.match(error.message, hint);
  });
}

test('the log has what the model server said, the caller has not; LOG_UPSTREAM_ERRORS=off removes it', async (t) => {
  const body = JSON.stringify({
    error: { message: 'upstream says no to hello', code: 'c', type: 't', param: 'p' },
  });
  for (const logErrors of [true, false]) {
    const { model, upstream, lines } = await setUp(t, { logErrors });
    upstream.respond(({ response }) => {
      response.writeHead(400, { 'content-encoding': 'gzip' }).end(gzipSync(body));
    });
    const error = await model.complete(HELLO, never()).catch((reason: Error) => reason);
    assert.doesNotMatch(JSON.stringify({ ...error, error: String(error) }), /says no/);
    const { upstream_error_code, upstream_error_type, upstream_error_param, upstream_error_message } = {
      ...lines[0]?.fields,
    } as Record<string, unknown>;
    assert.deepEqual(
      [upstream_error_code, upstream_error_type, upstream_error_param, upstream_error_message],
      logErrors
        ? ['c', 't', 'p', 'upstream says no to [hidden]']
        : [undefined, undefined, undefined, undefined],
    );
  }
});

test('an error response that never ends is classified by its status', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(({ response }) => {
    response.writeHead(400, { 'content-type': 'application/json' }).write('{"error":');
  });
  await assert.rejects(model.complete(HELLO, never()), { code: 'upstream_rejected' });
});
