/** Histories that callers send along, and stored ones, in a form in which equal ones are equal. */
import type { ContextMessage, Message } from './conversation.ts';

type Comparable = Pick<ContextMessage, 'role' | 'content' | 'parts' | 'toolCalls' | 'toolCallId'>;

/** What comes before the forms of the messages of a conversation. */
export function historyStart(owner: string | null, user: string | null, system: string | null): string[] {
  const start = JSON.stringify([owner, user]);
  return system === null ? [start] : [start, JSON.stringify(['system', system, [], [], null])];
}

/**
 * The form of one message: its role, text, images, tool calls and `tool_call_id`. Undefined: a reply that says nothing,
 * which is no part of a history.
 */
function comparableForm({
  role,
  content,
  parts,
  toolCalls = [],
  toolCallId,
}: Comparable): string | undefined {
  if (role === 'assistant' && content === '' && toolCalls.length === 0) return undefined;
  const images = parts?.flatMap((part) => (part.type === 'image_url' ? part.image_url.url : []));
  const calls = toolCalls.map(({ id, function: { name, arguments: text } }) => [id, name, compactJson(text)]);
  return JSON.stringify([role, content, images ?? [], calls, toolCallId ?? null]);
}

/** As {@link comparableForm}, of a stored message. */
export function storedForm({ role, content, details }: Pick<Message, 'role' | 'content' | 'details'>) {
  const { parts, tool_calls: toolCalls, tool_call_id: toolCallId } = details ?? {};
  return comparableForm({
    role,
    content,
    ...(parts && { parts }),
    ...(toolCalls && { toolCalls }),
    ...(toolCallId !== undefined && { toolCallId }),
  });
}

/** Clients parse arguments and write them anew, with other white space. */
function compactJson(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return text;
  }
}
