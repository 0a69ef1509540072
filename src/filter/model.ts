import type { CallContext, ChatModel, ModelOutcome, ModelReply, ModelRequest } from '../domain/chat/model.ts';
import type { FilterRule, FilterStream } from '../domain/filter.ts';
import { piecesOf } from '../util/pieces.ts';

/** The abort reason of a blocked call; internal. */
class Blocked extends Error {}

/**
 * Filters the replies of a model while they arrive, so that neither cache nor database sees the words. `block` aborts
 * a streamed call at the first word, and the reply completes with finish reason `content_filter`.
 */
export function filterReplies(model: ChatModel, { words, action }: FilterRule): ChatModel {
  return {
    async complete(request, signal, context) {
      const reply = await model.complete(request, signal, context);
      const filter = words.filters.markdown.stream(action);
      let text = '';
      for await (const piece of piecesOf(reply.content)) text += filter.push(piece);
      text += filter.end();
      if (!filter.found) return reply;
      return action === 'block' ? { ...blocked(reply), content: text } : { ...reply, content: text };
    },
    stream(request, onDelta, signal, context) {
      return streamed(model, words.filters.markdown.stream(action), request, onDelta, signal, context);
    },
    probe: (signal) => model.probe(signal),
    openCircuits: () => model.openCircuits(),
  };
}

async function streamed(
  model: ChatModel,
  filter: FilterStream,
  request: ModelRequest,
  onDelta: (text: string) => void,
  signal: AbortSignal,
  context: CallContext | undefined,
): Promise<ModelOutcome> {
  const blocking = new AbortController();
  const emit = (text: string) => {
    if (text !== '') onDelta(text);
  };
  const take = (piece: string) => {
    emit(filter.push(piece));
    if (filter.blocked && !blocking.signal.aborted) blocking.abort(new Blocked());
  };
  let outcome: ModelOutcome;
  try {
    outcome = await model.stream(request, take, AbortSignal.any([signal, blocking.signal]), context);
  } catch (error) {
    if (filter.blocked) return blocked({ model: request.model, usage: null });
    // The held-back text belongs to the reply, and no word can follow.
    emit(filter.end());
    throw error;
  }
  emit(filter.end());
  return filter.blocked ? blocked(outcome) : outcome;
}

function blocked({ model, usage }: Pick<ModelReply, 'model' | 'usage'>): ModelOutcome {
  return { finishReason: 'content_filter', usage, model, truncated: false };
}
