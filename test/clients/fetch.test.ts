import { type CallOptions, type Client, describeClient, type Place, WEATHER } from './suite.ts';

interface Call {
  readonly id: string;
  readonly function: { readonly name: string; readonly arguments: string };
}

interface Reply {
  content: string | null;
  tool_calls?: Call[];
  totalTokens: number | undefined;
}

class StatusError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** What a page does that has nothing but `fetch`. */
function create({ baseURL, apiKey }: Place): Client {
  async function call(body: object, { signal, retries = 0 }: CallOptions = {}): Promise<Response> {
    const response = await fetch(`${baseURL}/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` },
      body: JSON.stringify({ model: 'fake-model', ...body }),
      ...(signal && { signal }),
    });
    if (response.ok) return response;
    const { error } = JSON.parse(await response.text());
    if (retries > 0 && response.headers.has('retry-after')) return call(body, { retries: retries - 1 });
    throw new StatusError(response.status, error.message);
  }

  async function whole(body: object, options?: CallOptions): Promise<Reply> {
    const { choices, usage } = JSON.parse(await (await call(body, options)).text());
    return { ...choices[0].message, totalTokens: usage?.total_tokens };
  }

  async function streamed(
    body: object,
    onText: (text: string) => void,
    options?: CallOptions,
  ): Promise<Reply> {
    const more = { stream: true, stream_options: { include_usage: true } };
    const response = await call({ ...body, ...more }, options);
    const reply: Reply & { content: string } = { content: '', totalTokens: undefined };
    let rest = '';
    for await (const text of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      const events = (rest + text).split('\n\n');
      rest = events.pop() ?? '';
      for (const event of events) {
        const data = event.replace(/^data: /, '');
        if (data === '[DONE]') return reply;
        if (event.startsWith(':')) continue;
        const { choices, usage, error } = JSON.parse(data);
        if (error) throw new Error(error.message);
        const { content, tool_calls } = choices[0]?.delta ?? {};
        if (content) onText(content);
        reply.content += content ?? '';
        if (tool_calls) reply.tool_calls = [...(reply.tool_calls ?? []), ...tool_calls];
        reply.totalTokens = usage?.total_tokens ?? reply.totalTokens;
      }
    }
    throw new Error('the stream has no end');
  }

  return {
    async ask(messages, options) {
      const { content, totalTokens } = await whole({ messages }, options);
      return { text: content ?? '', totalTokens };
    },
    async stream(messages, onText, options) {
      const { content, totalTokens } = await streamed({ messages }, onText, options);
      return { text: content ?? '', totalTokens };
    },
    async askWithTool(question, run, inStream) {
      const messages: object[] = [{ role: 'user', content: question }];
      for (;;) {
        const body = { messages, tools: [{ type: 'function', function: WEATHER }] };
        const { content, tool_calls = [] } = inStream ? await streamed(body, () => {}) : await whole(body);
        if (tool_calls.length === 0) return content ?? '';
        messages.push({ role: 'assistant', content, tool_calls });
        for (const { id, function: called } of tool_calls) {
          const { city } = JSON.parse(called.arguments);
          messages.push({ role: 'tool', tool_call_id: id, content: run(city) });
        }
      }
    },
    async askAboutImage(question, png) {
      const image = { type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } };
      const content = [{ type: 'text', text: question }, image];
      return (await whole({ messages: [{ role: 'user', content }] })).content ?? '';
    },
    statusOf: (error) => (error instanceof StatusError ? error.status : undefined),
  };
}

describeClient('a page with fetch', create);
