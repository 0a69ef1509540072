import type { ChatModel, ModelOutcome, ModelReply, ModelRequest } from '../domain/chat/model.ts';
import type { FilterRule, FilterStream } from '../domain/filter.ts';

/** Why a call to the model was broken off; nobody sees it. */
class Blocked extends Error {}

/**
 * The model with its replies filtered as they come, so that whatever keeps them never had the words. With `block` a
 * streamed call is broken off at the first word, and the reply ends well, with finish reason `content_filter`.
 */
export function filterReplies(model: ChatModel, { words, action }: FilterRule): ChatModel {
  return {
    async complete(request, signal) {
      const reply = await model.complete(request, signal);
      const { text, hits } = words.filters.markdown.whole(reply.content, action);
      if (hits.length === 0) return reply;
      return action === 'block' ? { ...blocked(reply), content: text } : { ...reply, content: text };
    },
    stream(request, onDelta, signal) {
      return streamed(model, words.filters.markdown.stream(action), request, onDelta, signal);
    },
    reachable: (signal) => model.reachable(signal),
  };
}

async function streamed(
  model: ChatModel,
  filter: FilterStream,
  request: ModelRequest,
  onDelta: (text: string) => void,
  signal: AbortSignal,
): Promise<ModelOutcome> {
  const quit = new AbortController();
  const tell = (text: string) => {
    if (text !== '') onDelta(text);
  };
  const take = (piece: string) => {
    tell(filter.push(piece));
    if (filter.blocked && !quit.signal.aborted) quit.abort(new Blocked());
  };
  let outcome: ModelOutcome;
  try {
    outcome = await model.stream(request, take, AbortSignal.any([signal, quit.signal]));
  } catch (error) {
    if (filter.blocked) return blocked({ model: request.model, usage: null });
    // What was held back has been said too, and begins no word any more.
    tell(filter.end());
    throw error;
  }
  tell(filter.end());
  return filter.blocked ? blocked(outcome) : outcome;
}

function blocked({ model, usage }: Pick<ModelReply, 'model' | 'usage'>): ModelOutcome {
  return { finishReason: 'content_filter', usage, model, truncated: false };
}
