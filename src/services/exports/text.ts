import { setImmediate as nextTurn } from 'node:timers/promises';
import type {
  ContentPart,
  Counts,
  MessageDetails,
  ToolCall,
} from '../../domain/conversations/conversation.ts';
import type {
  ExportConversation,
  ExportMessage,
  ExportPage,
  ExportPart,
  ExportPosition,
} from '../../domain/exports/exports.ts';
import type { ExportEncoder } from './encoders.ts';

export interface ExportText {
  readonly text: string;
  /** Where a resumed export continues; null inside a conversation. */
  readonly position: ExportPosition | null;
}

const CHUNK_CHARS = 64 * 1024;
/** Messages, and characters of contents, that are encoded without a pause: about a millisecond. */
const SLICE = 100;
const SLICE_CHARS = 64 * 1024;

/**
 * The text between opening and closing, in pieces of about CHUNK_CHARS. Adds to `counts`.
 * @param isFirst whether nothing precedes the first conversation
 */
export async function* exportText(
  pages: AsyncIterable<ExportPage> | readonly ExportPage[],
  encoder: ExportEncoder,
  counts: Counts,
  isFirst: boolean,
): AsyncGenerator<ExportText> {
  for await (const { parts, position } of pages) {
    let text = '';
    for (const piece of encodeParts(encoder, parts, counts, isFirst)) {
      text += piece;
      if (text.length < CHUNK_CHARS) continue;
      yield { text, position: null };
      text = '';
      // A fast reader would otherwise block the event loop.
      await nextTurn();
    }
    // Also without text, so that a long export with few matches shows its progress.
    yield { text, position };
  }
}

/** The encoder's buffer is empty after the last piece. @param isFirst as for {@link exportText} */
export function* encodeParts(
  encoder: ExportEncoder,
  parts: readonly ExportPart[],
  counts: Counts,
  isFirst: boolean,
): Generator<string> {
  for (const { conversation, messages, begins, ends } of parts) {
    if (begins) yield encoder.begin(conversation, isFirst && counts.conversations === 0);
    if (begins) counts.conversations += 1;
    let first = begins;
    for (const slice of slices(messages)) {
      yield encoder.messages(conversation, slice, first);
      first = false;
      counts.messages += slice.length;
    }
    if (ends) yield encoder.end(conversation, first);
  }
  yield encoder.flush();
}

function* slices(messages: readonly ExportMessage[]): Generator<readonly ExportMessage[]> {
  let from = 0;
  let size = 0;
  for (const [index, { content }] of messages.entries()) {
    size += content.length;
    if (size < SLICE_CHARS && index + 1 - from < SLICE) continue;
    yield messages.slice(from, index + 1);
    from = index + 1;
    size = 0;
  }
  if (from < messages.length) yield messages.slice(from);
}

export interface IdRange {
  firstMessageId: string | null;
  lastMessageId: string | null;
}

/** The pages unchanged; `range` is extended by their message ids. */
export async function* trackIds(
  pages: AsyncIterable<ExportPage>,
  range: IdRange,
): AsyncGenerator<ExportPage> {
  for await (const page of pages) {
    for (const { messages } of page.parts) {
      range.firstMessageId ??= messages[0]?.uid ?? null;
      range.lastMessageId = messages.at(-1)?.uid ?? range.lastMessageId;
    }
    yield page;
  }
}

type Mask = (text: string) => Promise<string>;

/** The pages with `mask` applied to all contents. */
export async function* maskPages(pages: AsyncIterable<ExportPage>, mask: Mask): AsyncGenerator<ExportPage> {
  for await (const { parts, position } of pages) {
    const masked: ExportPart[] = [];
    for (const part of parts) {
      const conversation = await maskConversation(part.conversation, mask);
      masked.push({ ...part, conversation, messages: await maskMessages(part.messages, mask) });
    }
    yield { parts: masked, position };
  }
}

async function maskMessage(message: ExportMessage, mask: Mask): Promise<ExportMessage> {
  const { content, more } = message;
  const masked = { ...message, content: await mask(content) };
  if (!more) return masked;
  const { reasoning, details, feedback } = more;
  return {
    ...masked,
    more: {
      ...more,
      reasoning: reasoning && (await mask(reasoning)),
      details: details && (await maskDetails(details, mask)),
      feedback: feedback && { ...feedback, comment: feedback.comment && (await mask(feedback.comment)) },
    },
  };
}

async function maskDetails(
  { parts, tool_calls, ...details }: MessageDetails,
  mask: Mask,
): Promise<MessageDetails> {
  const maskedParts: ContentPart[] = [];
  for (const part of parts ?? [])
    maskedParts.push(part.type === 'text' ? { ...part, text: await mask(part.text) } : part);
  const calls: ToolCall[] = [];
  for (const call of tool_calls ?? []) {
    // The members of its provider may have any text.
    const { id, type, function: called } = call;
    calls.push({ id, type, function: { ...called, arguments: await mask(called.arguments) } });
  }
  return { ...details, ...(parts && { parts: maskedParts }), ...(tool_calls && { tool_calls: calls }) };
}

async function maskConversation(conversation: ExportConversation, mask: Mask): Promise<ExportConversation> {
  const { settings } = conversation;
  if (!settings) return conversation;
  const { title, user, system, metadata } = settings;
  const texts: Record<string, string> = {};
  for (const [name, text] of Object.entries(metadata ?? {})) texts[name] = await mask(text);
  return {
    ...conversation,
    settings: {
      ...settings,
      title: title && (await mask(title)),
      user: user && (await mask(user)),
      system: system && (await mask(system)),
      metadata: metadata && texts,
    },
  };
}

async function maskMessages(messages: readonly ExportMessage[], mask: Mask): Promise<ExportMessage[]> {
  const masked: ExportMessage[] = [];
  for (const slice of slices(messages)) {
    for (const message of slice) masked.push(await maskMessage(message, mask));
    await nextTurn();
  }
  return masked;
}
