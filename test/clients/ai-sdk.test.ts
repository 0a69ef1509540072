import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';
import { type CallOptions, type Client, describeClient, type Place, type Said, WEATHER } from './suite.ts';

function create({ baseURL, apiKey }: Place): Client {
  const provider = createOpenAICompatible({ name: 'chat', baseURL, apiKey, includeUsage: true });
  const model = provider('fake-model');
  const request = (messages: readonly Said[], { signal, retries = 0 }: CallOptions = {}) => ({
    model,
    messages: [...messages],
    maxRetries: retries,
    ...(signal && { abortSignal: signal }),
  });
  return {
    async ask(messages, options) {
      const { text, usage } = await generateText(request(messages, options));
      return { text, totalTokens: usage.totalTokens };
    },
    async stream(messages, onText, options) {
      const { stream, totalUsage } = streamText({ ...request(messages, options), onError() {} });
      let text = '';
      for await (const part of stream) {
        if (part.type === 'error') throw part.error;
        if (part.type !== 'text-delta') continue;
        text += part.text;
        onText(part.text);
      }
      return { text, totalTokens: (await totalUsage).totalTokens };
    },
    async askWithTool(question, run, streamed) {
      const weather = tool({
        description: WEATHER.description,
        inputSchema: jsonSchema<{ city: string }>(WEATHER.parameters),
        execute: ({ city }) => run(city),
      });
      const tools = { [WEATHER.name]: weather };
      const asked = { model, prompt: question, tools, stopWhen: isStepCount(3), maxRetries: 0 };
      return streamed ? await streamText(asked).text : (await generateText(asked)).text;
    },
    async askAboutImage(question, png) {
      const image = { type: 'file', mediaType: 'image/png', data: png } as const;
      const content = [{ type: 'text', text: question } as const, image];
      const { text } = await generateText({ model, messages: [{ role: 'user', content }], maxRetries: 0 });
      return text;
    },
    statusOf: (error) => (APICallError.isInstance(error) ? error.statusCode : undefined),
  };
}

describeClient('ai with @ai-sdk/openai-compatible', create);
