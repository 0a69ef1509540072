/**
 * The AI SDK in front of this server: a streamed reply, another one with the history that the client keeps, and a tool.
 *
 *   node examples/ai-sdk.mjs "Hello"
 *
 * API_URL names another server than the default, API_KEY the key that it asks for, API_MODEL the model.
 */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';

const { API_URL = 'http://127.0.0.1:5010', API_KEY = 'none', API_MODEL = 'gpt-4o-mini' } = process.env;
const provider = createOpenAICompatible({ name: 'chat', baseURL: `${API_URL}/v1`, apiKey: API_KEY });
const model = provider(API_MODEL);
const messages = [];

async function ask(question) {
  messages.push({ role: 'user', content: question });
  const { textStream, response } = streamText({ model, messages });
  let reply = '';
  for await (const text of textStream) {
    reply += text;
    process.stdout.write(text);
  }
  messages.push({ role: 'assistant', content: reply });
  console.log(`\n[conversation ${(await response).headers['x-conversation-id']}]`);
}

await ask(process.argv[2] ?? 'Hello');
await ask('And again?');

const weather = tool({
  description: 'The weather of a city',
  inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }),
  execute: ({ city }) => `${city}: 21 °C, sunny`,
});
const { text } = await generateText({
  model,
  prompt: 'What is the weather in Paris?',
  tools: { get_weather: weather },
  stopWhen: isStepCount(5),
});
console.log(text);
