/**
 * The openai package in front of this server: a streamed reply, another one with the history that the client keeps,
 * and a tool. The server keeps the conversation too, and says which one it is.
 *
 *   node examples/openai.mjs "Hello"
 *
 * API_URL names another server than the default, API_KEY the key that it asks for.
 */
import { OpenAI } from 'openai';

const { API_URL = 'http://127.0.0.1:5010', API_KEY = 'none' } = process.env;
const client = new OpenAI({ baseURL: `${API_URL}/v1`, apiKey: API_KEY });
const [model] = (await client.models.list()).data;
const messages = [];

async function ask(question) {
  messages.push({ role: 'user', content: question });
  const { data, response } = await client.chat.completions
    .create({ model: model.id, messages, stream: true })
    .withResponse();
  let reply = '';
  for await (const { choices } of data) {
    const text = choices[0]?.delta.content ?? '';
    reply += text;
    process.stdout.write(text);
  }
  messages.push({ role: 'assistant', content: reply });
  console.log(`\n[conversation ${response.headers.get('x-conversation-id')}]`);
}

await ask(process.argv[2] ?? 'Hello');
await ask('And again?');

const weather = {
  name: 'get_weather',
  description: 'The weather of a city',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  parse: JSON.parse,
  function: ({ city }) => `${city}: 21 °C, sunny`,
};
const runner = client.chat.completions.runTools({
  model: model.id,
  messages: [{ role: 'user', content: 'What is the weather in Paris?' }],
  tools: [{ type: 'function', function: weather }],
});
console.log(await runner.finalContent());
