import type { JsonObject } from '../../../domain/chat/parameters.ts';
import type { ContextMessage, MessageDetails } from '../../../domain/conversations/conversation.ts';
import type { ClientMessage } from './chat-input.ts';
import { changeTexts, type InputFilter } from './input-filter.ts';
import type { NewMessage } from './new-messages.ts';

/** The messages that a client sent: `sent` goes to the model, the rest is stored. */
export interface PreparedContext {
  readonly sent: readonly ContextMessage[];
  /** The first message, if it is a system message without parts. */
  readonly system: string | undefined;
  /** The messages before the new ones. Stored only when the turn begins a conversation. */
  readonly history: readonly NewMessage[];
  /** The new messages: from the last user message on, or the tool results at the end. At least one. */
  readonly asked: readonly NewMessage[];
}

/**
 * @param filter undefined: messages are not filtered
 * @throws AppError `content_blocked` for a new message; earlier ones are masked
 */
export function prepareContext(
  messages: readonly ClientMessage[],
  filter: InputFilter | undefined,
): PreparedContext {
  const newFrom = firstNew(messages);
  const filtered = messages.map((message, at) => applyFilter(message, filter, at >= newFrom));
  const stored = filtered.map(({ stored: message }, at) => toStored(message, at < newFrom));
  const [first] = messages;
  const hasSystem = newFrom > 0 && first?.role === 'system' && !first.parts;
  return {
    sent: filtered.map(({ sent }) => sent),
    system: hasSystem ? stored[0]?.content : undefined,
    history: stored.slice(hasSystem ? 1 : 0, newFrom),
    asked: stored.slice(newFrom),
  };
}

/** The index of the first new message; 0 if there is no user message. */
function firstNew(messages: readonly ClientMessage[]): number {
  if (messages.at(-1)?.role !== 'tool')
    return Math.max(
      0,
      messages.findLastIndex(({ role }) => role === 'user'),
    );
  return messages.findLastIndex(({ role }) => role !== 'tool') + 1;
}

/** Replies are not filtered. */
function applyFilter(
  message: ClientMessage,
  filter: InputFilter | undefined,
  isNew: boolean,
): { readonly sent: ClientMessage; readonly stored: ClientMessage } {
  if (!filter || message.role === 'assistant') return { sent: message, stored: message };
  const filtered = (form: 'sent' | 'stored'): ClientMessage => {
    const change = (text: string) => (isNew ? filter.apply(text) : filter.mask(text))[form];
    const content = change(message.content);
    if (content === message.content) return message;
    const parts = changeTexts(message.parts, change);
    return { ...message, content, ...(parts && { parts }), wire: withTexts(message.wire, change) };
  };
  return { sent: filtered('sent'), stored: filtered('stored') };
}

function withTexts(wire: JsonObject, change: (text: string) => string): JsonObject {
  const { content } = wire;
  if (typeof content === 'string') return { ...wire, content: change(content) };
  if (!Array.isArray(content)) return wire;
  const parts = content.map((part: Record<string, unknown>) =>
    typeof part.text === 'string' ? { ...part, text: change(part.text) } : part,
  );
  return { ...wire, content: parts };
}

/** Replies and earlier messages are marked as imported, because this server did not generate or receive them. */
function toStored(message: ClientMessage, isPast: boolean): NewMessage {
  const { role, content, parts, toolCalls, toolCallId, reasoning, isRefusal } = message;
  const details: MessageDetails = {
    ...(parts && { parts }),
    ...(toolCalls && { tool_calls: toolCalls }),
    ...(toolCallId !== undefined && { tool_call_id: toolCallId }),
    ...(isRefusal && { refusal: isRefusal }),
    ...((isPast || role === 'assistant') && { imported: true }),
  };
  return {
    role,
    content,
    replyTo: null,
    details: Object.keys(details).length === 0 ? null : details,
    ...(reasoning !== undefined && { reasoning }),
    ...(role === 'assistant' && { finishReason: toolCalls ? 'tool_calls' : 'stop' }),
  };
}
