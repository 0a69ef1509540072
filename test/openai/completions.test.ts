import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { OpenAI } from 'openai';
import { completion, completionChunk, openAiError } from '../../src/http/openai/schemas.ts';
import { type ChatServer, openAiErrorOf, startChat, until } from '../support/chat-server.ts';
import {
  chunk,
  createGate,
  delta,
  done,
  endWithoutFinish,
  finish,
  type Handler,
  hang,
  json,
  raw,
  reasoning,
  reply,
  role,
  script,
  silence,
  status,
  usage,
  wait,
} from '../support/fake-upstream.ts';

const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==';
const PNG_HEAD = Buffer.from(PIXEL.slice(PIXEL.indexOf(',')), 'base64').subarray(0, 8);
const LARGE_IMAGE = `data:image/png;base64,${Buffer.concat([PNG_HEAD, Buffer.alloc(9000)]).toString('base64')}`;
const HELLO = [{ role: 'user' as const, content: 'Hello' }];
const CALL = { id: 'c1', type: 'function' as const, function: { name: 'sum', arguments: '{"a":1}' } };
const TOOLS = [{ type: 'function' as const, function: { name: 'sum', parameters: { type: 'object' } } }];

describe('/v1', () => {
  let chat: ChatServer;
  let client: OpenAI;
  before(async () => {
    chat = await startChat({ SYSTEM_PROMPT: 'Never sent here.', OPENAI_MAX_TOKENS: '77' });
    client = new OpenAI({ baseURL: `${chat.url}/v1`, apiKey: 'ck_none', maxRetries: 0 });
  });
  after(() => chat.stop());

  const ask = (body: object, headers: Record<string, string> = {}) =>
    chat.call('POST', '/v1/chat/completions', { messages: HELLO, ...body }, headers);
  /** The chunks of a whole stream, checked to be exactly what the schema says. */
  const chunksOf = (text: string) => {
    const events = text.split('\n\n').filter((event) => event.startsWith('data: '));
    assert.equal(events.pop(), 'data: [DONE]');
    return events.map((event) => {
      const value: unknown = JSON.parse(event.slice(6));
      assert.deepEqual(completionChunk.parse(value), value);
      return completionChunk.parse(value);
    });
  };
  const lastRow = async () => {
    const [row] = await chat.server.database.knex('messages').orderBy('id', 'desc').limit(1);
    return row;
  };

  it('replies with every required member', async () => {
    const answer = await ask({ model: 'm' });
    assert.equal(answer.status, 200, answer.text);
    const body = completion.parse(JSON.parse(answer.text));
    assert.deepEqual(JSON.parse(answer.text), body);
    const message = { role: 'assistant', content: 'echo: Hello', refusal: null };
    assert.deepEqual(body.choices, [{ index: 0, message, logprobs: null, finish_reason: 'stop' }]);
    assert.deepEqual(body.usage, { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 });
    assert.equal(body.model, 'fake-model');
  });

  it('streams every piece as a chunk when it comes, with the reasoning', async () => {
    const gate = createGate();
    const steps = [role(), reasoning('Hmm'), delta('One **two**'), wait(gate), delta(' three'), finish()];
    chat.upstream.respond([script(...steps, usage(), done())]);
    const stream = await client.chat.completions.create({
      model: 'm',
      messages: HELLO,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const each of stream) {
      chunks.push(each);
      if (each.choices[0]?.delta.content === 'One **two**') gate.open();
    }
    assert.equal(new Set(chunks.map(({ id, created }) => `${id} ${created}`)).size, 1);
    assert.deepEqual(chunks[0]?.choices[0]?.delta, { role: 'assistant', content: '', refusal: null });
    assert(JSON.stringify(chunks[1]).includes('"reasoning_content":"Hmm"'));
    const reasons = chunks.map(({ choices }) => choices[0]?.finish_reason);
    assert.deepEqual(reasons, [null, null, null, null, 'stop', undefined]);
    assert.deepEqual(chunks.at(-1)?.choices, []);
    assert.equal(chunks.at(-1)?.usage?.total_tokens, 8);
    assert(chunks.slice(0, -1).every((each) => each.usage === null));
  });

  it('streams no usage unless it is asked for, but always asks for it', async () => {
    const chunks = chunksOf((await ask({ stream: true })).text);
    assert(chunks.every((each) => !('usage' in each) && each.choices.length === 1));
    assert.deepEqual(chat.upstream.requests.at(-1)?.body.stream_options, { include_usage: true });
  });

  it('passes on what it does not know, and what the caller names', async () => {
    const more = { temperature: 0.5, logit_bias: { 1: 2 }, safety_identifier: 's', user: 'ada', n: 1 };
    const messages = [
      { role: 'developer', content: 'Be brief.', name: 'boss' },
      { role: 'user', content: [{ type: 'text', text: 'Hi', cache_control: { type: 'ephemeral' } }] },
    ];
    await ask({ ...more, messages, model: 'm', max_completion_tokens: 5, store: true, metadata: { a: 'b' } });
    const { n: _, ...sent } = more;
    assert.deepEqual(chat.upstream.requests.at(-1)?.body, {
      ...sent,
      messages: chat.upstream.requests.at(-1)?.body.messages,
      model: 'm',
      stream: false,
      max_completion_tokens: 5,
    });
    assert.deepEqual(chat.upstream.requests.at(-1)?.sentMessages, messages);
    await ask({ max_tokens: 3, max_completion_tokens: 4 });
    const both = chat.upstream.requests.at(-1)?.body;
    assert.deepEqual([both?.max_tokens, both?.max_completion_tokens], [3, 4]);
    await ask({});
    assert.equal(chat.upstream.requests.at(-1)?.body.max_tokens, 77);
  });

  it('delivers tool calls whole and as deltas', async () => {
    const message = { role: 'assistant', content: null, tool_calls: [CALL] };
    chat.upstream.respond([
      json({ model: 'm', choices: [{ index: 0, message, finish_reason: 'tool_calls' }] }),
      script(
        raw(chunk({ tool_calls: [{ index: 0, ...CALL, function: { name: 'sum', arguments: '{"a"' } }] })),
        raw(chunk({ tool_calls: [{ index: 0, function: { arguments: ':1}' } }] })),
        finish('tool_calls'),
        done(),
      ),
    ]);
    const whole = await client.chat.completions.create({ model: 'm', messages: HELLO, tools: TOOLS });
    assert.deepEqual(whole.choices[0]?.message.tool_calls, [CALL]);
    assert.equal(whole.choices[0]?.finish_reason, 'tool_calls');
    const streamed = client.chat.completions.stream({ model: 'm', messages: HELLO, tools: TOOLS });
    const { choices } = await streamed.finalChatCompletion();
    assert.equal(choices[0]?.message.tool_calls?.[0]?.id, 'c1');
    assert.equal(choices[0]?.finish_reason, 'tool_calls');
  });

  it('keeps the members of tool calls that only their provider knows, and sends them back', async () => {
    const signed = { ...CALL, extra_content: { google: { thought_signature: 'c2ln' } } };
    const message = { role: 'assistant', content: null, tool_calls: [signed] };
    chat.upstream.respond([
      json({ model: 'm', choices: [{ index: 0, message, finish_reason: 'tool_calls' }] }),
      script(raw(chunk({ tool_calls: [{ index: 0, ...signed }] })), finish('tool_calls'), done()),
    ]);
    const whole = await ask({ tools: TOOLS });
    const { choices } = completion.parse(JSON.parse(whole.text));
    assert.deepEqual(choices[0]?.message.tool_calls, [signed]);
    const streamed = await ask({ tools: TOOLS, stream: true });
    const calls = chunksOf(streamed.text).flatMap(({ choices: [choice] }) => choice?.delta.tool_calls ?? []);
    assert.deepEqual(calls, [{ index: 0, ...signed }]);
    // A native turn that continues the conversation.
    const id = String(whole.headers['x-conversation-id']);
    assert.deepEqual((await chat.read(id)).messages[1]?.tool_calls, [signed]);
    await chat.ask({ conversation_id: id, tool_results: [{ tool_call_id: 'c1', content: '1' }] });
    const sent = chat.upstream.requests.at(-1)?.sentMessages as { tool_calls?: unknown }[];
    assert.deepEqual(sent.find((each) => each.tool_calls)?.tool_calls, [signed]);
    // They are not compared: many clients drop them.
    const history = [...HELLO, { role: 'assistant', content: null, tool_calls: [CALL] }];
    const next = await ask({ messages: [...history, { role: 'tool', tool_call_id: 'c1', content: '1' }] });
    assert.equal(next.headers['x-conversation-id'], streamed.headers['x-conversation-id']);
  });

  it('runs the tools helper of the openai package in one conversation', async () => {
    const message = { role: 'assistant', content: null, tool_calls: [CALL] };
    chat.upstream.respond([
      json({ model: 'm', choices: [{ index: 0, message, finish_reason: 'tool_calls' }] }),
      reply('It is 3.'),
    ]);
    const before = await chat.countRows();
    const sum = { name: 'sum', description: 'Adds', parameters: {}, parse: JSON.parse, function: () => '3' };
    const runner = client.chat.completions.runTools({
      model: 'm',
      messages: [{ role: 'user', content: 'Add, please' }],
      tools: [{ type: 'function', function: sum }],
    });
    assert.equal(await runner.finalContent(), 'It is 3.');
    const after = await chat.countRows();
    assert.deepEqual([after.conversations - before.conversations, after.messages - before.messages], [1, 4]);
  });

  for (const [size, urls] of Object.entries({ small: [PIXEL], large: [LARGE_IMAGE, PIXEL, LARGE_IMAGE] })) {
    it(`takes ${size} images`, async () => {
      const images = urls.map((url) => ({ type: 'image_url' as const, image_url: { url } }));
      const content = [{ type: 'text' as const, text: 'What is it?' }, ...images];
      await client.chat.completions.create({ model: 'm', messages: [{ role: 'user', content }] });
      assert.deepEqual(chat.upstream.requests.at(-1)?.sentMessages, [{ role: 'user', content }]);
    });
  }

  it('passes on long URLs in parts that it does not know', async () => {
    const url = `data:image/png;base64,${'A\n'.repeat(5000)}`;
    const messages = [{ role: 'user', content: [{ type: 'input_image', image_url: { url } }] }];
    assert.equal((await ask({ messages })).status, 200);
    assert.deepEqual(chat.upstream.requests.at(-1)?.sentMessages, messages);
  });

  it('streams a refusal as one, which the helper for structured output reads', async () => {
    const pieces = ['I will', ' not.'].map((refusal) => raw(chunk({ refusal })));
    chat.upstream.respond([script(role(), ...pieces, finish(), done())]);
    const schema = { name: 's', schema: { type: 'object' } };
    const response_format = { type: 'json_schema' as const, json_schema: schema };
    const stream = client.chat.completions.stream({ model: 'm', messages: HELLO, response_format });
    const { choices } = await stream.finalChatCompletion();
    assert.deepEqual([choices[0]?.message.content, choices[0]?.message.refusal], ['', 'I will not.']);
    assert.equal((await lastRow())?.content, 'I will not.');
  });

  it('passes on log probabilities, in a stream beside the text that they belong to', async () => {
    const token = (text: string) => ({ token: text, logprob: -0.5, bytes: null, top_logprobs: [] });
    const probs = (...texts: string[]) => ({ content: texts.map(token), refusal: null });
    const whole = { index: 0, message: { content: 'ab' }, finish_reason: 'stop', logprobs: probs('a', 'b') };
    const piece = (content: string) =>
      raw(`data: ${JSON.stringify({ choices: [{ delta: { content }, logprobs: probs(content) }] })}\n\n`);
    const gate = createGate();
    chat.upstream.respond([
      json({ model: 'm', choices: [whole] }),
      script(piece('a'), piece('b'), wait(gate), piece('c'), delta('d'), finish(), done()),
    ]);
    const asked = { model: 'm', messages: HELLO, logprobs: true };
    const { choices } = await client.chat.completions.create(asked);
    assert.deepEqual(choices[0]?.logprobs, probs('a', 'b'));
    const tokens: unknown[] = [];
    let text = '';
    for await (const each of await client.chat.completions.create({ ...asked, stream: true })) {
      const [choice] = each.choices;
      text += choice?.delta.content ?? '';
      tokens.push(...(choice?.logprobs?.content ?? []));
      if (text === 'ab') assert.deepEqual(tokens, probs('a', 'b').content);
      if (text === 'ab') gate.open();
    }
    assert.deepEqual([text, tokens], ['abcd', probs('a', 'b', 'c').content]);
  });

  it('passes on more log probabilities than a call can have arguments', async () => {
    const content = Array(150_000).fill(0);
    const whole = { index: 0, message: { content: 'a' }, finish_reason: 'stop', logprobs: { content } };
    chat.upstream.respond([json({ model: 'm', choices: [whole] })]);
    const { choices } = await client.chat.completions.create({ model: 'm', messages: HELLO, logprobs: true });
    assert.equal(choices[0]?.logprobs?.content?.length, content.length);
  });

  it('marks a refusal', async () => {
    const message = { role: 'assistant', content: null, refusal: 'I will not.' };
    chat.upstream.respond([json({ model: 'm', choices: [{ index: 0, message, finish_reason: 'stop' }] })]);
    const { choices } = await client.chat.completions.create({ model: 'm', messages: HELLO });
    assert.deepEqual([choices[0]?.message.content, choices[0]?.message.refusal], [null, 'I will not.']);
  });

  for (const stream of [false, true]) {
    it(`cancels ${stream ? 'a stream' : 'a call'} whose caller disconnects`, async () => {
      const n = chat.upstream.requests.length + 1;
      chat.upstream.respond([stream ? script(delta('so far'), silence()) : hang()]);
      const abort = new AbortController();
      const calling = client.chat.completions.create(
        { model: 'm', messages: HELLO, stream },
        { signal: abort.signal },
      );
      if (stream) await calling;
      await chat.upstream.waitForRequest(n);
      abort.abort();
      await calling.then(
        () => {},
        () => {},
      );
      assert.equal((await chat.upstream.waitForClosed(n)).closed, true);
      if (!stream) return;
      await until('the end', async () => (await lastRow())?.status === 'cancelled');
      assert.equal((await lastRow())?.content, 'so far');
    });
  }

  it('continues while a native reader has the stream', async () => {
    const gate = createGate();
    chat.upstream.respond([script(delta('so far'), wait(gate), delta(', so good'), finish(), done())]);
    const abort = new AbortController();
    const response = await fetch(`${chat.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ messages: HELLO, stream: true }),
      signal: abort.signal,
    });
    const id = response.headers.get('x-stream-id');
    const reader = await fetch(`${chat.url}/api/chat-stream/${id}`);
    const gone = () =>
      chat.server.lines.filter(({ path, client: left }) => path?.toString().startsWith('/v1') && left);
    const before = gone().length;
    abort.abort();
    await until('the disconnect', () => gone().length > before);
    gate.open();
    assert.match(await reader.text(), /so good/);
    await until('the end', async () => (await lastRow())?.status === 'complete');
  });

  it('a reply that is stopped ends with finish_reason stop', async () => {
    chat.upstream.respond([script(delta('so far'), silence())]);
    const response = await fetch(`${chat.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ messages: HELLO, stream: true }),
    });
    await chat.call('DELETE', `/api/chat-stream/${response.headers.get('x-stream-id')}`);
    const chunks = chunksOf(await response.text());
    assert.equal(chunks.at(-1)?.choices[0]?.finish_reason, 'stop');
  });

  it('a stream that breaks ends with an error and without [DONE]', async () => {
    chat.upstream.respond([endWithoutFinish('so', ' far')]);
    const { text } = await ask({ stream: true });
    const last = text.split('\n\n').filter(Boolean).at(-1) ?? '';
    const { error } = openAiError.parse(JSON.parse(last.replace('data: ', '')));
    assert.deepEqual([error.code, error.type], ['upstream_incomplete', 'server_error']);
    assert(!text.includes('[DONE]'));
  });

  it('errors of the model server have none of its words', async () => {
    const said = '{"error":{"message":"secret words","code":"bad"}}';
    chat.upstream.respond([status(400, {}, said), status(429, { 'retry-after': '7' }, said)]);
    const rejected = await ask({ stream: true });
    assert.equal(openAiErrorOf(rejected, 502, 'upstream_rejected').type, 'server_error');
    assert.equal(rejected.headers['x-should-retry'], 'false');
    const busy = await ask({});
    openAiErrorOf(busy, 503, 'upstream_busy');
    assert(Number(busy.headers['retry-after']) > 0);
    assert(!rejected.text.includes('secret') && !busy.text.includes('secret'));
  });

  for (const stream of [false, true]) {
    it(`names the conversation of a failed ${stream ? 'stream' : 'call'}, in which it can be repeated`, async () => {
      const failing = async (body: object, headers = {}) => {
        chat.upstream.respond([status(400)]);
        const answer = await ask({ stream, ...body }, headers);
        openAiErrorOf(answer, 502, 'upstream_rejected');
        return answer.headers;
      };
      const first = await failing({});
      const id = String(first['x-conversation-id']);
      assert.match(String(first['x-stream-id']), /^[\da-f-]{36}$/);
      assert.equal((await chat.read(id)).messages.length, 1);
      assert.equal((await failing({}, { 'x-conversation-id': id }))['x-conversation-id'], id);
      const again = await ask({ stream }, { 'x-conversation-id': id });
      assert.deepEqual([again.status, again.headers['x-conversation-id']], [200, id]);
      const unstored = await failing({ store: false });
      assert.deepEqual([unstored['x-conversation-id'], unstored['x-stream-id']], [undefined, undefined]);
      const unknown = await ask({ stream }, { 'x-conversation-id': crypto.randomUUID() });
      openAiErrorOf(unknown, 404, 'conversation_not_found');
      assert.equal(unknown.headers['x-conversation-id'], undefined);
    });
  }

  it('names the conversation of a reply without text', async () => {
    chat.upstream.respond([reply(' ')]);
    const answer = await ask({});
    openAiErrorOf(answer, 502, 'upstream_empty');
    assert.equal((await chat.read(String(answer.headers['x-conversation-id']))).messages.length, 1);
  });

  const BAD: Record<string, readonly [body: unknown, param: string | null]> = {
    'no body': [undefined, null],
    'an array': [[], null],
    'no messages': [{}, 'messages'],
    'empty messages': [{ messages: [] }, 'messages'],
    'messages that are text': [{ messages: 'hi' }, 'messages'],
    'a message that is text': [{ messages: ['hi'] }, 'messages.0'],
    'an unknown role': [{ messages: [{ role: 'king', content: 'x' }] }, 'messages.0.role'],
    'no content': [{ messages: [{ role: 'user' }] }, 'messages.0.content'],
    'content that is a number': [{ messages: [{ role: 'user', content: 5 }] }, 'messages.0.content'],
    'a tool message without a call': [
      { messages: [...HELLO, { role: 'tool', tool_call_id: 'x', content: '1' }] },
      'messages.1.tool_call_id',
    ],
    'a tool message without an id': [
      {
        messages: [
          { role: 'assistant', tool_calls: [CALL] },
          { role: 'tool', content: '1' },
        ],
      },
      'messages.1.tool_call_id',
    ],
    'five replies': [{ messages: HELLO, n: 5 }, 'n'],
    'a stream that is text': [{ messages: HELLO, stream: 'yes' }, 'stream'],
    'a temperature of 5': [{ messages: HELLO, temperature: 5 }, 'temperature'],
    'a NUL character': [{ messages: [{ role: 'user', content: 'a\0b' }] }, 'messages'],
    'an image that is none': [
      {
        messages: [
          {
            role: 'user',
            content: [{ type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }],
          },
        ],
      },
      'messages.0.content.0.image_url.url',
    ],
    'an image over http': [
      {
        messages: [
          { role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://169.254.169.254/' } }] },
        ],
      },
      'messages.0.content.0.image_url.url',
    ],
    'metadata with numbers': [{ messages: HELLO, metadata: { a: 1 } }, 'metadata.a'],
  };
  for (const [what, [body, param]] of Object.entries(BAD)) {
    it(`rejects ${what}`, async () => {
      const before = chat.upstream.requests.length;
      const answer = await chat.call('POST', '/v1/chat/completions', body);
      const expected = body === undefined ? [415, 'unsupported_media_type'] : [400, 'validation'];
      const error = openAiErrorOf(answer, Number(expected[0]), String(expected[1]));
      assert.deepEqual([error.type, error.param], ['invalid_request_error', param]);
      assert.equal(chat.upstream.requests.length, before);
    });
  }

  it('has errors of the same form for other paths, methods and malformed JSON', async () => {
    openAiErrorOf(await chat.call('GET', '/v1/nothing'), 404, 'not_found');
    const wrong = await chat.call('GET', '/v1/chat/completions');
    openAiErrorOf(wrong, 405, 'method_not_allowed');
    assert.equal(wrong.headers.allow, 'POST, OPTIONS');
    const response = await chat.server.post('/v1/chat/completions', '{"messages":');
    assert.equal(response.status, 400);
    assert.equal(openAiError.parse(await response.json()).error.code, 'malformed_json');
    openAiErrorOf(await chat.call('GET', '/v1/models/a%2'), 400, 'malformed_path');
  });

  it('lists the models of the model server, and the configured ones when it gives no list', async () => {
    const names = async () => (await client.models.list()).data.map(({ id }) => id);
    assert.deepEqual(await names(), ['gpt-4o-mini']);
    const other = await startChat();
    try {
      const data = [{ id: 'org/name', object: 'model', created: 5, owned_by: 'org' }, { id: 7 }];
      other.upstream.respondModels((response) => response.end(JSON.stringify({ object: 'list', data })));
      const models = new OpenAI({ baseURL: `${other.url}/v1`, apiKey: 'none' }).models;
      assert.deepEqual((await models.list()).data, data.slice(0, 1));
      assert.deepEqual(await models.retrieve('org/name'), data[0]);
      openAiErrorOf(await other.call('GET', '/v1/models/none'), 404, 'not_found');
      assert.equal(other.upstream.modelRequests, 1);
    } finally {
      await other.stop();
    }
  });
});

describe('/v1 with settings', () => {
  it('V1_STORE=off stores nothing, V1_ON_DISCONNECT=continue finishes, V1_CACHE=on uses the cache', async () => {
    const chat = await startChat({ V1_STORE: 'off', V1_ON_DISCONNECT: 'continue', V1_CACHE: 'on' });
    try {
      const body = { messages: HELLO, store: true };
      for (let call = 0; call < 2; call++) {
        const answer = await chat.call('POST', '/v1/chat/completions', body);
        assert.deepEqual([answer.status, answer.headers['x-conversation-id']], [200, undefined]);
      }
      assert.equal(chat.upstream.requests.length, 1);
      assert.deepEqual(await chat.countRows(), { conversations: 0, messages: 0 });
      // Identical calls at the same time are not joined.
      const gate = createGate();
      const held: Handler = async (exchange) => {
        await gate.opened;
        return reply('late')(exchange);
      };
      chat.upstream.respond([held, held]);
      const twin = { messages: [{ role: 'user', content: 'Twice' }] };
      const calls = [1, 2].map(() => chat.call('POST', '/v1/chat/completions', twin));
      await chat.upstream.waitForRequest(3);
      gate.open();
      for (const { status } of await Promise.all(calls)) assert.equal(status, 200);
    } finally {
      await chat.stop();
    }
  });

  it('a caller over its limit gets 429, which the openai package waits for', async () => {
    const chat = await startChat({ RATE_LIMIT_REQUESTS: '1' });
    try {
      const client = new OpenAI({ baseURL: `${chat.url}/v1`, apiKey: 'none', maxRetries: 0 });
      const call = () => client.chat.completions.create({ model: 'm', messages: HELLO });
      await call();
      const error: unknown = await call().catch((reason: unknown) => reason);
      assert(error instanceof OpenAI.RateLimitError);
      assert.deepEqual([error.status, error.code, error.type], [429, 'rate_limited', 'rate_limit_error']);
      assert(error.requestID);
      assert(Number(error.headers.get('retry-after')) > 0);
    } finally {
      await chat.stop();
    }
  });
});
