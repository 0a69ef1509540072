import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isTooLong, refusedMember, shareThatFits } from '../../src/llm/refusals.ts';
import { readErrorBody } from '../../src/llm/reported-error.ts';

const openai = (message: string, more: object = {}) =>
  JSON.stringify({ error: { message, type: 'invalid_request_error', param: null, code: null, ...more } });
const failure = (status: number | undefined, body: string) => ({ status, reported: readErrorBody(body) });

/** What model servers and gateways say when a request is too long. */
const TOO_LONG: readonly (readonly [server: string, status: number | undefined, body: string])[] = [
  [
    'OpenAI',
    400,
    openai(
      "This model's maximum context length is 8192 tokens. However, your messages resulted in 8545 tokens. Please reduce the length of the messages.",
      { code: 'context_length_exceeded', param: 'messages' },
    ),
  ],
  ['OpenAI, by its code alone', 400, openai('Bad request', { code: 'context_length_exceeded' })],
  ['OpenAI', 400, openai('Your input exceeds the context window of this model.')],
  [
    'OpenAI, more than a minute has',
    429,
    openai(
      'Request too large for gpt-4-turbo in organization org-x on tokens per min (TPM): Limit 30000, Requested 36000. The input or output tokens must be reduced in order to run successfully.',
      { code: 'rate_limit_exceeded', type: 'tokens' },
    ),
  ],
  [
    'OpenAI, a long message',
    400,
    openai("Invalid 'messages[1].content': string too long.", { code: 'string_above_max_length' }),
  ],
  [
    'vLLM',
    400,
    '{"object":"error","message":"This model\'s maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the messages, 1000 in the completion). Please reduce the length of the messages or completion.","type":"BadRequestError","param":null,"code":400}',
  ],
  [
    'vLLM',
    400,
    openai('The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure …'),
  ],
  ['vLLM', 400, openai('max_tokens must be at least 1, got -904.')],
  [
    'llama.cpp',
    400,
    '{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}',
  ],
  [
    'llama.cpp',
    500,
    '{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}',
  ],
  ['Ollama', 400, '{"error":"the input length exceeds the context length"}'],
  ['Ollama', 500, '{"error":{"message":"input length exceeds maximum context length","type":"api_error"}}'],
  [
    'LM Studio',
    400,
    '{"error":"The number of tokens to keep from the initial prompt is greater than the context length. Try to load the model with a larger context length."}',
  ],
  [
    'LM Studio',
    undefined,
    '{"error":{"message":"Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough."}}',
  ],
  [
    'Mistral',
    400,
    '{"object":"error","message":"Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length","type":"invalid_request_prompt","param":null,"code":"3051"}',
  ],
  [
    'Anthropic',
    400,
    '{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 213462 tokens > 200000 maximum"}}',
  ],
  [
    'Anthropic',
    413,
    '{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}',
  ],
  [
    'Google',
    400,
    '[{"error":{"code":400,"message":"The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).","status":"INVALID_ARGUMENT"}}]',
  ],
  [
    'xAI',
    400,
    '{"code":"Client specified an invalid argument","error":"This model\'s maximum prompt length is 131072 but the request contains 200000 tokens."}',
  ],
  ['Bedrock', 400, '{"message":"Input is too long for requested model."}'],
  ['Groq', 400, openai('Please reduce the length of the messages or completion.')],
  [
    'TGI',
    422,
    '{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 `inputs` tokens and 100 `max_new_tokens`","error_type":"validation"}',
  ],
  ['TGI', 422, '{"error":"Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"}'],
  [
    'SGLang, inside a 200',
    400,
    '{"error":{"object":"error","message":"The input (5000 tokens) is longer than the model\'s context length (4096 tokens).","type":"BadRequestError","code":400}}',
  ],
  [
    'Cohere',
    400,
    '{"message":"too many tokens: size limit exceeded by 1000 tokens. Try using shorter or fewer inputs."}',
  ],
  ['Moonshot', 400, openai('Invalid request: Your request exceeded model token limit: 8192')],
  ['MiniMax', 400, openai('invalid params, context window exceeds limit (2013)')],
  ['Copilot', 400, openai('prompt token count of 140000 exceeds the limit of 128000')],
  ['DashScope', 400, openai('Range of input length should be [1, 30720]')],
  ['Zhipu', 400, '{"error":{"code":"1261","message":"Prompt 超长"}}'],
  ['Qianfan', 400, openai('输入内容过长，超出模型上下文长度限制')],
  ['watsonx', 400, openai('the number of input tokens 5000 cannot exceed the total tokens limit 4096')],
  ['nginx', 413, '<html><head><title>413 Request Entity Too Large</title></head></html>'],
];

const OTHER_ERRORS: readonly (readonly [name: string, status: number | undefined, body: string])[] = [
  ['a wrong key', 401, openai('Incorrect API key provided: prompt is too long')],
  ['an unknown model', 404, openai('The model `x` does not exist')],
  [
    'a rate limit',
    429,
    openai('Rate limit reached on tokens per min (TPM): Limit 10000, Used 9000, Requested 2000'),
  ],
  [
    'a quota',
    429,
    openai('You exceeded your current quota, please check your plan', { code: 'insufficient_quota' }),
  ],
  ['a timeout', 500, openai('context deadline exceeded')],
  ['an overload', 503, openai('The model is overloaded')],
  [
    'a reply limit',
    400,
    openai('max_tokens is too large: 100000. This model supports at most 16384 completion tokens'),
  ],
  ['a temperature', 400, openai("'temperature' must be less than or equal to 1")],
  ['a content filter', 400, openai('The response was filtered due to the prompt triggering the policy')],
  ['nothing', 400, ''],
];

describe('an error about a request that is too long', () => {
  for (const [server, status, body] of TOO_LONG) {
    test(`of ${server} is recognized: ${body.slice(0, 70)}`, () => {
      assert.equal(isTooLong(failure(status, body)), true);
    });
  }

  for (const [name, status, body] of OTHER_ERRORS) {
    test(`is not one about ${name}`, () => assert.equal(isTooLong(failure(status, body)), false));
  }

  test('says how much fits, where it has both numbers', () => {
    const share = (message: string) => shareThatFits(failure(400, openai(message)));
    assert.equal(share('prompt is too long: 250,000 tokens > 200,000 maximum'), 0.8);
    assert.equal(
      share('maximum context length is 4096 tokens, you requested 8192 tokens (8000 in the messages)'),
      0.5,
    );
    assert.equal(share('Your request exceeded model token limit: 8192'), undefined);
    assert.equal(share('error 400: 129000 tokens are too many'), undefined);
  });
});

const SENT = { stream_options: {}, max_tokens: 1, temperature: 1 };
const NAMED: readonly (readonly [string | undefined, string, number, string, object?])[] = [
  [
    'max_tokens',
    'OpenAI',
    400,
    openai(
      "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
      { param: 'max_tokens', code: 'unsupported_parameter' },
    ),
  ],
  [
    'temperature',
    'OpenAI',
    400,
    openai("Unsupported value: 'temperature' does not support 0.7 with this model.", {
      param: 'temperature',
    }),
  ],
  ['stream_options', 'Azure', 400, openai('Unrecognized request argument supplied: stream_options')],
  [
    'stream_options',
    'Mistral',
    422,
    '{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{"include_usage":true}}]},"type":"invalid_request_error","param":null,"code":null}',
  ],
  [
    'stream_options',
    'vLLM',
    400,
    `{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted'}]","param":null}`,
  ],
  [
    'stream_options',
    'Databricks',
    400,
    '{"error_code":"BAD_REQUEST","message":"json: unknown field \\"stream_options\\""}',
  ],
  [
    'stream_options',
    'Google',
    400,
    '[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \\"streamOptions\\": Cannot find field.","status":"INVALID_ARGUMENT"}}]',
  ],
  [
    'stream_options',
    'a param that is None',
    400,
    openai('stream_options is not supported', { param: 'None' }),
  ],
  ['max_tokens', 'a gateway that answers in text', 400, 'max_tokens: unknown parameter'],
  [
    'max_completion_tokens',
    'an older server',
    400,
    openai("Unknown field max_completion_tokens, did you mean 'max_tokens'?"),
    { max_completion_tokens: 1, temperature: 1 },
  ],
  [
    undefined,
    'a member that was not sent',
    400,
    openai("Unsupported parameter: 'temperature'"),
    { max_tokens: 1 },
  ],
  [undefined, 'another param', 400, openai('max_tokens', { param: 'messages.0.content' })],
  [undefined, 'another status', 500, openai('max_tokens is not supported')],
];

describe('the member that a model server refuses', () => {
  for (const [member, server, status, body, sent = SENT] of NAMED) {
    test(`is ${member} in the words of ${server}: ${body.slice(0, 60)}`, () => {
      assert.equal(refusedMember(failure(status, body), sent), member);
    });
  }
});
