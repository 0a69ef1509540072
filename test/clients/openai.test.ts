import { APIError, OpenAI } from 'openai';
import type { ChatCompletionMessageParam } from 'openai/resources';
import { type CallOptions, type Client, describeClient, type Place, type Said, WEATHER } from './suite.ts';

function create({ baseURL, apiKey }: Place): Client {
  const { completions } = new OpenAI({ baseURL, apiKey, maxRetries: 0 }).chat;
  const body = (messages: readonly ChatCompletionMessageParam[]) => ({
    model: 'fake-model',
    messages: [...messages],
  });
  const options = ({ signal, retries = 0 }: CallOptions = {}) => ({
    maxRetries: retries,
    ...(signal && { signal }),
  });
  return {
    async ask(messages: readonly Said[], given) {
      const { choices, usage } = await completions.create(body(messages), options(given));
      return { text: choices[0]?.message.content ?? '', totalTokens: usage?.total_tokens };
    },
    async stream(messages, onText, given) {
      const stream = completions.stream(
        { ...body(messages), stream_options: { include_usage: true } },
        options(given),
      );
      stream.on('content', (text) => onText(text));
      const { choices, usage } = await stream.finalChatCompletion();
      return { text: choices[0]?.message.content ?? '', totalTokens: usage?.total_tokens };
    },
    async askWithTool(question, run, streamed) {
      const weather = {
        type: 'function',
        function: { ...WEATHER, parse: JSON.parse, function: ({ city }: { city: string }) => run(city) },
      } as const;
      const request = { ...body([{ role: 'user', content: question }]), tools: [weather] };
      const runner = streamed
        ? completions.runTools({ ...request, stream: true })
        : completions.runTools(request);
      return (await runner.finalContent()) ?? '';
    },
    async askAboutImage(question, png) {
      const url = `data:image/png;base64,${png}`;
      const content = [
        { type: 'text', text: question } as const,
        { type: 'image_url', image_url: { url } } as const,
      ];
      const { choices } = await completions.create(body([{ role: 'user', content }]));
      return choices[0]?.message.content ?? '';
    },
    statusOf: (error) => (error instanceof APIError ? error.status : undefined),
  };
}

describeClient('the openai package', create);
