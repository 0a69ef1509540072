import {
  AIMessage,
  type AIMessageChunk,
  type BaseMessage,
  HumanMessage,
  ToolMessage,
  type UsageMetadata,
} from '@langchain/core/messages';
import { ChatOpenAI } from '@langchain/openai';
import {
  type Answer,
  type CallOptions,
  type Client,
  describeClient,
  type Place,
  type Said,
  WEATHER,
} from './suite.ts';

const messageOf = ({ role, content }: Said) =>
  role === 'user' ? new HumanMessage(content) : new AIMessage(content);

type Reply = Pick<AIMessageChunk, 'text'> & { readonly usage_metadata?: UsageMetadata | undefined };

function create({ baseURL, apiKey }: Place): Client {
  const model = (retries = 0) =>
    new ChatOpenAI({ model: 'fake-model', apiKey, maxRetries: retries, configuration: { baseURL } });
  const options = ({ signal }: CallOptions = {}) => ({ ...(signal && { signal }) });
  const answerOf = ({ text, usage_metadata }: Reply): Answer => ({
    text,
    totalTokens: usage_metadata?.total_tokens,
  });
  return {
    async ask(messages, given) {
      return answerOf(await model(given?.retries).invoke(messages.map(messageOf), options(given)));
    },
    async stream(messages, onText, given) {
      let [text, totalTokens]: [string, number | undefined] = ['', undefined];
      for await (const chunk of await model().stream(messages.map(messageOf), options(given))) {
        text += chunk.text;
        totalTokens = answerOf(chunk).totalTokens ?? totalTokens;
        onText(chunk.text);
      }
      return { text, totalTokens };
    },
    async askWithTool(question, run, streamed) {
      const bound = model().bindTools([{ type: 'function', function: WEATHER }]);
      const invoke = async (sent: readonly BaseMessage[]): Promise<AIMessage> => {
        if (!streamed) return bound.invoke([...sent]);
        const chunks = [];
        for await (const chunk of await bound.stream([...sent])) chunks.push(chunk);
        return chunks.reduce((whole, chunk) => whole.concat(chunk));
      };
      const messages: BaseMessage[] = [new HumanMessage(question)];
      for (;;) {
        const reply = await invoke(messages);
        const { tool_calls: calls = [] } = reply;
        if (calls.length === 0) return reply.text;
        messages.push(reply);
        for (const { id = '', args } of calls)
          messages.push(new ToolMessage({ tool_call_id: id, content: run(String(args.city)) }));
      }
    },
    async askAboutImage(question, png) {
      const content = [
        { type: 'text', text: question },
        { type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } },
      ];
      return (await model().invoke([new HumanMessage({ content })])).text;
    },
    statusOf: (error) => (error as { status?: number }).status,
  };
}

describeClient('@langchain/openai', create);
