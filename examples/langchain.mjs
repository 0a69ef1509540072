/**
 * LangChain in front of this server: a streamed reply, another one with the history that the client keeps, and a tool.
 *
 *   node examples/langchain.mjs "Hello"
 *
 * API_URL names another server than the default, API_KEY the key that it asks for, API_MODEL the model.
 */
import { AIMessage, HumanMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';

const { API_URL = 'http://127.0.0.1:5010', API_KEY = 'none', API_MODEL = 'gpt-4o-mini' } = process.env;
const model = new ChatOpenAI({
  model: API_MODEL,
  apiKey: API_KEY,
  configuration: { baseURL: `${API_URL}/v1` },
});
const messages = [];

async function ask(question) {
  messages.push(new HumanMessage(question));
  let reply = '';
  for await (const { text } of await model.stream(messages)) {
    reply += text;
    process.stdout.write(text);
  }
  messages.push(new AIMessage(reply));
  console.log();
}

await ask(process.argv[2] ?? 'Hello');
await ask('And again?');

const weather = tool(({ city }) => `${city}: 21 °C, sunny`, {
  name: 'get_weather',
  description: 'The weather of a city',
  schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
});
const withTools = model.bindTools([weather]);
const asked = [new HumanMessage('What is the weather in Paris?')];
for (;;) {
  const reply = await withTools.invoke(asked);
  asked.push(reply);
  if (!reply.tool_calls?.length) {
    console.log(reply.text);
    break;
  }
  for (const call of reply.tool_calls) asked.push(await weather.invoke(call));
}
