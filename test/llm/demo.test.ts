import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ModelRequest } from '../../src/domain/chat/model.ts';
import type { ContextMessage } from '../../src/domain/conversations/conversation.ts';
import { type DemoModel, startDemoModel } from '../../src/llm/demo/demo.ts';
import { createChatModel, type ModelOptions } from '../../src/llm/model.ts';
import { silentLog, textReader } from '../support/fakes.ts';
import { never } from './setup.ts';

let demo: DemoModel;
let model: ReturnType<typeof createChatModel>;

before(async () => {
  demo = await startDemoModel();
  const options: ModelOptions = {
    apiKey: undefined,
    baseUrl: demo.baseUrl,
    headers: {},
    refused: [],
    timeoutMs: 5000,
    firstTokenTimeoutMs: 5000,
    idleTimeoutMs: 5000,
    maxRetries: 0,
    replyMaxBytes: 100_000,
    replyMaxMs: 10_000,
    logErrors: true,
    reasoningTags: true,
  };
  model = createChatModel(options, silentLog);
});

after(async () => {
  await model.close();
  await demo.close();
});

const ask = (...contents: string[]): ModelRequest => ({
  model: 'm',
  messages: contents.map(
    (content, i): ContextMessage => ({ role: i % 2 === 0 ? 'user' : 'assistant', content }),
  ),
  parameters: {},
});

test('the demo model replies in the language of the question and says how to connect a real model', async () => {
  const english = await model.complete(ask('What can you do?'), never());
  assert.match(english.content, /demo model/);
  assert.match(english.content, /canned/);
  assert.doesNotMatch(english.content, /\p{Script=Han}/u);
  const chinese = await model.complete(ask('你好'), never());
  assert.match(chinese.content, /演示模型/);
  for (const { content, model: name, finishReason } of [english, chinese]) {
    for (const setting of ['.env', 'OPENAI_API_KEY', 'OPENAI_BASE_URL', 'OPENAI_MODEL']) {
      assert.ok(content.includes(setting));
    }
    assert.deepEqual([name, finishReason], ['demo', 'stop']);
  }
});

test('the demo model repeats a short piece of the question and counts the messages before it', async () => {
  const first = await model.complete(ask(`line\none ${'x'.repeat(100)}`), never());
  assert.match(first.content, /“line one x{31}…”/);
  assert.match(first.content, /first message/);
  const third = await model.complete(ask('hi', 'hello', 'again'), never());
  assert.match(third.content, /“again”.*\*\*2\*\* earlier messages/);
});

test('the streamed demo reply equals the whole one, in 21 to 90 small pieces', async () => {
  const request = ask('请用中文介绍一下你自己 😀');
  const pieces: string[] = [];
  const outcome = await model.stream(
    request,
    textReader((text) => pieces.push(text)),
    never(),
  );
  const whole = await model.complete(request, never());
  assert.equal(pieces.join(''), whole.content);
  // One comes every 25 ms, so that the reply takes at most a few seconds.
  assert.ok(pieces.length > 20 && pieces.length <= 90, `${pieces.length} pieces`);
  assert.deepEqual(outcome.usage, whole.usage);
  assert.ok((outcome.usage?.completion_tokens ?? 0) > 20);
});

test('an aborted stream ends', async () => {
  const controller = new AbortController();
  const stop = () => controller.abort('stop');
  await assert.rejects(
    model.stream(ask('hi'), textReader(stop), controller.signal),
    (error) => error === 'stop',
  );
  assert.equal(await model.probe(never()), 'up');
});

test('the demo model lists itself and rejects invalid requests as an OpenAI server does', async () => {
  const list: unknown = await (await fetch(`${demo.baseUrl}/models`)).json();
  assert.deepEqual(list, { object: 'list', data: [{ id: 'demo', object: 'model', owned_by: 'demo' }] });
  for (const body of ['{bad', '[]', '{}', '{"messages":[]}', '{"messages":3}']) {
    const response = await fetch(`${demo.baseUrl}/chat/completions`, { method: 'POST', body });
    assert.equal(response.status, 400);
    assert.match(await response.text(), /"error":\{"message"/);
  }
  assert.equal((await fetch(`${demo.baseUrl}/elsewhere`)).status, 404);
});

const weather = {
  type: 'function',
  function: {
    name: 'get_weather',
    parameters: {
      type: 'object',
      properties: {
        city: { type: 'string' },
        unit: { enum: ['celsius', 'fahrenheit'] },
        days: { type: 'integer' },
        details: { type: 'boolean' },
      },
      required: ['city', 'unit', 'days'],
    },
  },
} as const;
const time = { type: 'function', function: { name: 'getLocalTime' } } as const;

test('the demo model thinks aloud when it is asked to, streamed and whole', async () => {
  const effort = { ...ask('hi'), parameters: { reasoning_effort: 'low' as const } };
  for (const request of [ask('请思考一下'), effort]) {
    const { reasoning = '', content } = await model.complete(request, never());
    assert.match(reasoning, /canned|预设/);
    assert.match(content, /demo model|演示模型/);
  }
  const request = ask('Think about it: what is 2 + 2?');
  const whole = await model.complete(request, never());
  assert.ok((whole.usage?.reasoning_tokens ?? 0) > 10);
  const read = { reasoning: '', content: '' };
  const take = {
    content(text: string) {
      read.content += text;
    },
    reasoning(text: string) {
      assert.equal(read.content, '');
      read.reasoning += text;
    },
  };
  const { usage } = await model.stream(request, take, never());
  assert.deepEqual([read.reasoning, read.content, usage], [whole.reasoning, whole.content, whole.usage]);
  assert.equal((await model.complete(ask('hi'), never())).reasoning, undefined);
});

test('the demo model calls the tools that the question names, and repeats their results', async () => {
  const request = {
    ...ask('What is the weather in Ghent over 3 days, and the local time?'),
    parameters: { tools: [weather, time] },
  };
  const whole = await model.complete(request, never());
  assert.deepEqual([whole.content, whole.finishReason], ['', 'tool_calls']);
  const called = whole.toolCalls?.map(({ function: { name, arguments: args } }) => [name, JSON.parse(args)]);
  assert.deepEqual(called, [
    ['get_weather', { city: 'Ghent', unit: 'celsius', days: 3 }],
    ['getLocalTime', {}],
  ]);
  const streamed = await model.stream(request, textReader(), never());
  assert.deepEqual(streamed.toolCalls, whole.toolCalls);
  const { toolCalls = [] } = whole;
  const results = toolCalls.map(
    ({ id }, index): ContextMessage => ({ role: 'tool', content: `result ${index}`, toolCallId: id }),
  );
  const messages = [...request.messages, { role: 'assistant' as const, content: '', toolCalls }, ...results];
  const answered = await model.complete({ ...request, messages }, never());
  assert.match(answered.content, /`result 0`\n- `result 1`/);
  assert.equal(answered.toolCalls, undefined);
});

test('the demo model calls no tool that is not asked for, and one that must be called', async () => {
  const parameters = { tools: [weather, time] };
  assert.equal((await model.complete({ ...ask('hi'), parameters }, never())).toolCalls, undefined);
  const off = { ...parameters, tool_choice: 'none' as const };
  assert.equal(
    (await model.complete({ ...ask('the weather?'), parameters: off }, never())).toolCalls,
    undefined,
  );
  const must = { ...parameters, tool_choice: 'required' as const };
  const forced = await model.complete({ ...ask('hi'), parameters: must }, never());
  assert.deepEqual(
    forced.toolCalls?.map(({ function: { name } }) => name),
    ['get_weather'],
  );
});

test('the demo model describes images, and says that it cannot see them', async () => {
  const url = `data:image/png;base64,${'A'.repeat(4096)}`;
  const parts = [
    { type: 'text', text: 'What is this?' },
    { type: 'image_url', image_url: { url } },
  ] as const;
  const message: ContextMessage = { role: 'user', content: 'What is this?', parts };
  const { content } = await model.complete({ ...ask(), messages: [message] }, never());
  assert.match(content, /\*\*1\*\* image\./);
  assert.match(content, /canned/);
  assert.match(content, /- PNG, 3 KiB/);
});
