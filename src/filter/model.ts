import type {
  CallContext,
  ChatModel,
  ModelOutcome,
  ModelReply,
  ModelRequest,
  PieceReader,
} from '../domain/chat/model.ts';
import type { FilterRule, FilterStream } from '../domain/filter.ts';
import { piecesOf } from '../util/pieces.ts';

/** The abort reason of a blocked call; internal. */
class Blocked extends Error {}

/**
 * Filters the replies of a model while they arrive, so that neither cache nor database sees the words. `block` aborts
 * a streamed call at the first word, and the reply completes with finish reason `content_filter`; in the reasoning it
 * ends only that. Tool calls stay as they are: what is masked in them would be called wrongly.
 */
export function filterReplies(model: ChatModel, rule: FilterRule): ChatModel {
  return {
    async complete(request, signal, context) {
      const reply = await model.complete(request, signal, context);
      const content = await filterWhole(reply.content, rule);
      const reasoning = reply.reasoning === undefined ? undefined : await filterWhole(reply.reasoning, rule);
      const texts = { content: content.text, ...(reasoning?.text && { reasoning: reasoning.text }) };
      if (content.found && rule.action === 'block') return { ...blocked(reply), ...texts };
      return content.found || reasoning?.found ? { ...withoutReasoning(reply), ...texts } : reply;
    },
    stream: (request, on, signal, context) => streamed(model, rule, request, on, signal, context),
    probe: (signal) => model.probe(signal),
    openCircuits: () => model.openCircuits(),
  };
}

async function filterWhole(text: string, { words, action }: FilterRule) {
  const filter = words.filters.markdown.stream(action);
  let output = '';
  for await (const piece of piecesOf(text)) output += filter.push(piece);
  return { text: output + filter.end(), found: filter.found };
}

function withoutReasoning({ reasoning: _, ...reply }: ModelReply): ModelReply {
  return reply;
}

async function streamed(
  model: ChatModel,
  { words, action }: FilterRule,
  request: ModelRequest,
  on: PieceReader,
  signal: AbortSignal,
  context: CallContext | undefined,
): Promise<ModelOutcome> {
  const { markdown } = words.filters;
  const filter = markdown.stream(action);
  let reasoningFilter: FilterStream | undefined;
  const blocking = new AbortController();
  const emit = (text: string) => {
    if (text !== '') on.content(text);
  };
  const emitReasoning = (text: string) => {
    if (text !== '') on.reasoning(text);
  };
  /** Text follows: no later reasoning continues a word. */
  const endReasoning = () => {
    if (!reasoningFilter || reasoningFilter.blocked) return;
    emitReasoning(reasoningFilter.end());
    reasoningFilter = undefined;
  };
  const take = {
    content(piece: string) {
      endReasoning();
      emit(filter.push(piece));
      if (filter.blocked && !blocking.signal.aborted) blocking.abort(new Blocked());
    },
    reasoning(piece: string) {
      reasoningFilter ??= markdown.stream(action);
      emitReasoning(reasoningFilter.push(piece));
    },
  };
  let outcome: ModelOutcome;
  try {
    outcome = await model.stream(request, take, AbortSignal.any([signal, blocking.signal]), context);
  } catch (error) {
    if (filter.blocked) return blocked({ model: request.model, usage: null });
    endReasoning();
    // The held-back text belongs to the reply, and no word can follow.
    emit(filter.end());
    throw error;
  }
  endReasoning();
  emit(filter.end());
  return filter.blocked ? blocked(outcome) : outcome;
}

function blocked({ model, usage, upstream }: Pick<ModelReply, 'model' | 'usage' | 'upstream'>): ModelOutcome {
  return { finishReason: 'content_filter', usage, model, truncated: false, ...(upstream && { upstream }) };
}
