/** Reads conversations of an import: values of JSON in, checked conversations out. */
import type { Message } from '../../domain/conversations/conversation.ts';
import {
  ImportError,
  type ImportedConversation,
  type ImportedMessage,
  ReplyOrder,
} from '../../domain/conversations/imports.ts';
import { AppError } from '../../domain/errors.ts';
import { isObject } from '../../util/json.ts';
import { importedHead, importedMessage } from '../schemas/imports.ts';
import { check } from './validate.ts';

/**
 * A line of an NDJSON export; null for one that is no conversation: the summary, or a deletion.
 * @throws ImportError
 */
export function importedLine(value: unknown): ImportedConversation | null {
  const line = isObject(value) ? value : {};
  if (line.deleted === true || isObject(line.summary)) return null;
  if (!Array.isArray(line.messages)) throw new ImportError('is not a conversation of an export');
  const conversation = importedConversation(line, [], false);
  const order = new MessageReader();
  return { ...conversation, messages: line.messages.map((message, at) => order.read(message, at)) };
}

/** @throws ImportError */
export function importedConversation(
  head: unknown,
  messages: ImportedConversation['messages'],
  isLong: boolean,
): ImportedConversation {
  const {
    conversation_id,
    created_at,
    last_active,
    pinned,
    title,
    user,
    metadata,
    system,
    model,
    parameters,
  } = checked(importedHead, head, '');
  return {
    id: conversation_id,
    createdAt: created_at,
    lastActive: last_active,
    pinned,
    settings: { title, user, metadata, system, model, parameters },
    messages,
    isLong,
  };
}

/** Reads the messages of one conversation, oldest first. */
export class MessageReader {
  readonly #order = new ReplyOrder();

  /** @throws ImportError */
  read(value: unknown, at: number): ImportedMessage {
    const { id, reply_to, parts, tool_calls, tool_call_id, refusal, ...line } = checked(
      importedMessage,
      value,
      `messages.${at}.`,
    );
    const { role, content, timestamp, model, usage, reasoning, feedback } = line;
    const details = { parts, tool_calls, tool_call_id, refusal };
    const set = Object.entries(details).filter(([, member]) => member !== undefined);
    const message = {
      uid: id,
      role,
      content,
      timestamp,
      ...endOf(line),
      model,
      usage,
      format: role === 'assistant' ? ('markdown' as const) : null,
      reasoning,
      details: set.length === 0 ? null : Object.fromEntries(set),
      feedback: role === 'assistant' ? feedback : null,
    };
    const replyTo = reply_to ?? this.#order.expected(message) ?? null;
    this.#order.add(message);
    return { ...message, replyTo };
  }
}

/** No process continues a reply that was streaming when it was exported. */
function endOf({
  status,
  finish_reason: finishReason,
}: Pick<ReturnType<typeof importedMessage.parse>, 'status' | 'finish_reason'>): Pick<
  Message,
  'status' | 'finishReason'
> {
  return status === 'streaming' ? { status: 'incomplete', finishReason: 'error' } : { status, finishReason };
}

function checked<T>(schema: Parameters<typeof check<T>>[0], value: unknown, path: string): T {
  try {
    return check(schema, value);
  } catch (error) {
    throw error instanceof AppError ? new ImportError(`${path}${error.message}`) : error;
  }
}
