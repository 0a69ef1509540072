/** Domain types → wire types. */
import type { SequencedMessage } from '../../domain/conversations/conversation.ts';
import { emptyReply } from '../../domain/errors.ts';
import { partEntries } from '../../domain/metrics.ts';
import { isoTime, tenths } from '../../domain/time.ts';
import type { CacheUse } from '../../services/chat/generations.ts';
import type { Turn, TurnResult } from '../../services/chat/turn.ts';
import type {
  ConversationList,
  ConversationPage,
  ConversationView,
} from '../../services/conversations/conversations.ts';
import type { ChatReplyBody } from '../schemas/chat.ts';
import {
  type ConversationBody,
  type ConversationListBody,
  conversationCursor,
  type ListedConversationBody,
  type MessageBody,
  messageCursor,
} from '../schemas/conversations.ts';
import type { RenderedReply } from './reply-renderer.ts';

/** `Cache-Status` (RFC 9211). */
export function presentCacheUse(use: CacheUse): string {
  switch (use.kind) {
    case 'hit':
      return `chat; hit; ttl=${Math.ceil(use.ttlMs / 1000)}`;
    case 'miss':
      return 'chat; fwd=miss';
    case 'collapsed':
      return 'chat; fwd=miss; collapsed';
    case 'bypass':
      return 'chat; fwd=bypass';
  }
}

/** `Server-Timing` (W3C): where the time of the turn went, in milliseconds. Undefined for an earlier turn. */
export function presentTiming({ times, cached, replayed, reply }: Turn): string | undefined {
  if (!times || replayed) return undefined;
  let text = '';
  for (const [part, ms] of partEntries(times.parts(cached ? undefined : reply.generation))) {
    text += `${part};dur=${tenths(ms)}, `;
  }
  return `${text}total;dur=${tenths(times.totalMs)}`;
}

/** The response headers with the ids of a stored turn. */
export function idHeaders({ isStored, conversationId, messageId }: Turn): Record<string, string> {
  return isStored ? { 'X-Conversation-Id': conversationId, 'X-Stream-Id': messageId } : {};
}

/** The response headers with the ids of a stored turn and the model server that replied. */
export function turnHeaders(turn: Turn): Record<string, string> {
  const { upstream } = turn.reply.generation;
  return { ...idHeaders(turn), ...(upstream && { 'X-Upstream': upstream }) };
}

/** @throws AppError `upstream_empty` where the rendered reply has no text, though nothing was filtered or stopped */
export function presentReply(turn: Turn, result: TurnResult, rendered: RenderedReply): ChatReplyBody {
  if (rendered.text.trim() === '' && !rendered.blocked && mustHaveText(result)) throw emptyReply();
  return {
    response: rendered.text,
    conversation_id: turn.conversationId,
    message_id: turn.messageId,
    question_id: turn.questionId,
    cached: turn.cached,
    model: result.model,
    format: turn.format,
    ...presentEnd(result, rendered.blocked),
    usage: result.usage,
    expires_at: isoTime(result.expiresAt),
    persisted: result.persisted,
  };
}

/** @param blocked the content filter has cut the text */
export function presentEnd(
  { finishReason, toolCalls, refusal }: TurnResult,
  blocked: boolean,
): Pick<ChatReplyBody, 'finish_reason' | 'tool_calls' | 'refusal'> {
  if (blocked) return { finish_reason: 'content_filter' };
  return {
    finish_reason: finishReason,
    ...(toolCalls && { tool_calls: [...toolCalls] }),
    ...(refusal && { refusal }),
  };
}

/** A reply that was filtered or cancelled, or that consists of reasoning or tool calls, may have no text. */
export function mustHaveText({ finishReason, reasoning }: TurnResult): boolean {
  return reasoning === null && (finishReason === 'stop' || finishReason === 'length');
}

function presentSettings({ title, pinned, settings }: ConversationView) {
  const { user, metadata, system, model, parameters } = settings;
  return { title, pinned, user, metadata: metadata ?? {}, system, model, parameters: parameters ?? {} };
}

function presentSummary(view: ConversationView) {
  return {
    conversation_id: view.id,
    created_at: isoTime(view.createdAt),
    last_active: isoTime(view.lastActive),
    expires_at: isoTime(view.expiresAt),
    ...presentSettings(view),
  };
}

export function presentListed(view: ConversationView): ListedConversationBody {
  const { lastMessage } = view;
  return {
    ...presentSummary(view),
    last_message: lastMessage && {
      id: lastMessage.uid,
      role: lastMessage.role,
      preview: lastMessage.preview,
      timestamp: isoTime(lastMessage.timestamp),
      status: lastMessage.status,
    },
  };
}

function presentMessage(message: SequencedMessage): MessageBody {
  const { uid, role, content, timestamp, status, model, finishReason, usage, reasoning, details, feedback } =
    message;
  const { parts, tool_calls, tool_call_id, refusal } = details ?? {};
  return {
    id: uid,
    role,
    content,
    timestamp: isoTime(timestamp),
    status,
    ...(model !== null && { model }),
    ...(finishReason !== null && { finish_reason: finishReason }),
    ...(usage !== null && { usage }),
    ...(reasoning !== null && { reasoning }),
    ...(parts && { parts }),
    ...(tool_calls && { tool_calls: [...tool_calls] }),
    ...(tool_call_id !== undefined && { tool_call_id }),
    ...(refusal && { refusal }),
    ...(feedback && { feedback }),
  };
}

export function presentConversation(page: ConversationPage): ConversationBody {
  return {
    ...presentSummary(page),
    messages: page.messages.map(presentMessage),
    has_more: page.next !== null,
    next_cursor: page.next === null ? null : messageCursor.encode(page.next),
  };
}

export function presentList(list: ConversationList): ConversationListBody {
  return {
    conversations: list.conversations.map(presentListed),
    has_more: list.next !== null,
    next_cursor: list.next && conversationCursor.encode(list.next),
    ...(list.searched !== undefined && { searched: list.searched }),
  };
}
