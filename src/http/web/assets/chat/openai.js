import { readMessages } from '../conversations/api.js';
import { request } from '../credentials.js';
import { ChatError, problemOf } from './problem.js';
import { readEvents } from './sse.js';

const event = (type, data) => ({ type, data: JSON.stringify({ content: '', ...data }) });

/** The problem document of an error in OpenAI's form. */
const problemIn = ({ message, code }) => ({ code, detail: message });

function messageOf({ role, content, parts, tool_calls, tool_call_id }) {
  return { role, content: parts ?? content, tool_calls, tool_call_id };
}

/** A conversation with all its messages. undefined: a new one. */
async function readAll(id, signal) {
  if (id === undefined) return { messages: [] };
  let page = await readMessages(id, undefined, signal);
  const { messages } = page;
  while (page.has_more) {
    page = await readMessages(id, page.next_cursor, signal);
    messages.unshift(...page.messages);
  }
  return { ...page, messages };
}

/** One question and the stream of its reply through OpenAI's API, with the methods of ReplyStream. It cannot resume. */
export class OpenAiStream {
  #body;
  #stopped = new AbortController();

  constructor({ body }) {
    this.#body = body;
  }

  async *events(signal) {
    const end = {};
    try {
      const response = await this.#send(AbortSignal.any([signal, this.#stopped.signal]));
      yield event('start', {
        conversation_id: response.headers.get('x-conversation-id'),
        message_id: response.headers.get('x-stream-id'),
      });
      for await (const { data } of readEvents(response)) {
        if (data === '[DONE]') return yield event('done', end);
        const { error, choices, model, usage } = JSON.parse(data);
        if (error) throw new ChatError('failed', problemIn(error));
        Object.assign(end, { model }, usage && { usage });
        const { delta = {}, finish_reason } = choices[0] ?? {};
        if (finish_reason) end.finish_reason = finish_reason;
        if (delta.tool_calls) end.tool_calls = delta.tool_calls;
        if (delta.reasoning_content) yield event('reasoning', { reasoning: delta.reasoning_content });
        if (delta.refusal) end.refusal = true;
        const content = delta.content || delta.refusal;
        if (content) yield event('message', { content });
      }
    } catch (error) {
      if (signal.aborted || error instanceof ChatError) throw error;
      if (!this.#stopped.signal.aborted) throw new ChatError('unreachable');
      return yield event('done', { ...end, finish_reason: 'cancelled' });
    }
    throw new ChatError('failed', { code: 'reply_incomplete' });
  }

  /** The server cancels what is disconnected. */
  async stop() {
    this.#stopped.abort();
    return true;
  }

  async #send(signal) {
    const { conversation_id: id } = this.#body;
    const response = await request('/v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(id && { 'x-conversation-id': id }) },
      body: JSON.stringify(await this.#completion(signal)),
      signal,
    });
    if (response.ok) return response;
    const problem = await problemOf(response);
    throw new ChatError('failed', { ...problem, ...(problem.error && problemIn(problem.error)) });
  }

  /** The server has the history; a client of OpenAI's API sends it all the same. */
  async #completion(signal) {
    const { conversation_id, message, tool_results, ...own } = this.#body;
    const { messages, ...stored } = await readAll(conversation_id, signal);
    const { system, model, parameters } = conversation_id ? stored : own;
    const { extra, ...others } = parameters ?? {};
    const asked = tool_results?.map((result) => ({ role: 'tool', ...result }));
    return {
      ...others,
      ...extra,
      ...(model && { model }),
      messages: [
        ...(system ? [{ role: 'system', content: system }] : []),
        ...messages.map(messageOf),
        ...(asked ?? [{ role: 'user', content: message }]),
      ],
      stream: true,
      stream_options: { include_usage: true },
    };
  }
}
