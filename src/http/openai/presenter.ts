/** Replies in the form of OpenAI's chat completions API. */
import type { Usage } from '../../domain/conversations/conversation.ts';
import { type AppError, emptyReply } from '../../domain/errors.ts';
import type { Reply } from '../../services/chat/reply.ts';
import type { Turn, TurnResult } from '../../services/chat/turn.ts';
import { mustHaveText } from '../response/presenters.ts';
import type { RenderedReply } from '../response/reply-renderer.ts';
import type { CompletionBody } from './schemas.ts';

export type CompletionReason = CompletionBody['choices'][number]['finish_reason'];

export function completionId({ messageId }: Turn): string {
  return `chatcmpl-${messageId}`;
}

export function nowInSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

/** OpenAI has no reason for a stopped reply, which gets `stop`, nor for an unknown end, which gets `length`. */
export function presentReason({ finishReason }: TurnResult, blocked: boolean): CompletionReason {
  if (blocked) return 'content_filter';
  if (finishReason === 'cancelled') return 'stop';
  return finishReason === 'error' ? 'length' : finishReason;
}

export function presentUsage(usage: Usage) {
  const { cached_tokens, reasoning_tokens, ...counts } = usage;
  return {
    ...counts,
    ...(cached_tokens !== undefined && { prompt_tokens_details: { cached_tokens } }),
    ...(reasoning_tokens !== undefined && { completion_tokens_details: { reasoning_tokens } }),
  };
}

/**
 * The log probabilities of the tokens; null without any.
 * @param isFiltered whether the content filter changes the text; the result is then null, as tokens would show the
 * words
 * @param from how many tokens of each text were sent before, and are left out
 */
export function presentLogprobs(
  { generation: { logprobs } }: Reply,
  isFiltered: boolean,
  from = { content: 0, refusal: 0 },
): { content: unknown[] | null; refusal: unknown[] | null } | null {
  if (!logprobs || isFiltered) return null;
  const [content, refusal] = [logprobs.content.slice(from.content), logprobs.refusal.slice(from.refusal)];
  if (content.length + refusal.length === 0) return null;
  return { content: content.length > 0 ? content : null, refusal: refusal.length > 0 ? refusal : null };
}

/** The error of a reply in which the caller would see nothing; undefined for any other reply. */
export function emptyReplyError(result: TurnResult, text: string, blocked: boolean): AppError | undefined {
  return text.trim() === '' && !blocked && mustHaveText(result) ? emptyReply() : undefined;
}

/**
 * @param reasoning undefined without any
 * @throws AppError `upstream_empty`
 */
export function presentCompletion(
  turn: Turn,
  result: TurnResult,
  { text, blocked }: RenderedReply,
  reasoning: string | undefined,
  logprobs: CompletionBody['choices'][number]['logprobs'],
): CompletionBody {
  const empty = emptyReplyError(result, text, blocked);
  if (empty) throw empty;
  const { refusal, toolCalls, usage, model } = result;
  const calls = blocked ? undefined : toolCalls;
  const content = refusal || (text === '' && calls) ? null : text;
  return {
    id: completionId(turn),
    object: 'chat.completion',
    created: nowInSeconds(),
    model,
    choices: [
      {
        index: 0,
        message: {
          role: 'assistant',
          content,
          refusal: refusal ? text : null,
          ...(reasoning !== undefined && { reasoning_content: reasoning }),
          ...(calls && { tool_calls: [...calls] }),
        },
        logprobs,
        finish_reason: presentReason(result, blocked),
      },
    ],
    ...(usage && { usage: presentUsage(usage) }),
  };
}
