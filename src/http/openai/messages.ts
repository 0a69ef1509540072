/** Converts OpenAI's messages into messages of the domain. */
import { hash } from 'node:crypto';
import type { JsonObject } from '../../domain/chat/parameters.ts';
import type { ContentPart, ToolCall } from '../../domain/conversations/conversation.ts';
import type { ClientMessage } from '../../services/chat/request/chat-input.ts';
import { textOfParts } from '../schemas/parts.ts';
import type { CompletionRequest } from './schemas.ts';

type SentMessage = CompletionRequest['messages'][number];
type SentPart = Exclude<SentMessage['content'], string | null | undefined>[number];

const ROLES = {
  system: 'system',
  developer: 'system',
  user: 'user',
  assistant: 'assistant',
  tool: 'tool',
  function: 'tool',
} as const;

/** The message in the form that is stored. `wire` is what the model server gets: the message as the client sent it. */
export function clientMessage(message: SentMessage): ClientMessage {
  const { role, content, refusal, reasoning_content, tool_calls, tool_call_id } = message;
  const parts = typeof content === 'object' && content ? content.map(storedPart) : undefined;
  const text = typeof content === 'string' ? content : textOfParts(parts ?? []);
  const calls = tool_calls?.map(storedCall) ?? [];
  const isRefusal = role === 'assistant' && text === '' && Boolean(refusal);
  return {
    role: ROLES[role],
    content: isRefusal ? (refusal ?? '') : text,
    ...(parts?.some(({ type }) => type !== 'text') && { parts }),
    ...(calls.length > 0 && { toolCalls: calls }),
    ...(tool_call_id && { toolCallId: tool_call_id }),
    ...(reasoning_content && { reasoning: reasoning_content }),
    ...(isRefusal && { isRefusal }),
    wire: message as JsonObject,
  };
}

/** The stored form of a part. If it is neither text nor an image, only its type and a digest are stored. */
function storedPart(part: SentPart): ContentPart {
  const { type, text, refusal, image_url } = part;
  if (/text$/.test(type) && text !== undefined) return { type: 'text', text };
  if (type === 'refusal' && refusal !== undefined) return { type: 'text', text: refusal };
  if (type !== 'image_url' || !image_url) {
    const digest = hash('sha256', JSON.stringify(part)).slice(0, 16);
    return { type: 'text', text: `[${type} ${digest}]` };
  }
  const { url, detail } = image_url;
  if (detail !== 'auto' && detail !== 'low' && detail !== 'high') return { type, image_url: { url } };
  return { type, image_url: { url, detail } };
}

/** The stored form of a tool call. If it is no function call, its members are stored as arguments. */
function storedCall({
  id,
  type,
  function: called,
  index: _,
  ...others
}: NonNullable<SentMessage['tool_calls']>[number]): ToolCall {
  if (!called) {
    const call = { name: '', arguments: JSON.stringify({ type, ...others }) };
    return { id, type: 'function', function: call };
  }
  return { id, type: 'function', function: { name: called.name, arguments: called.arguments }, ...others };
}
