/** Texts of messages, which can be longer than a packet of the database server. */
import type { Message, MessageDetails } from '../../domain/conversations/conversation.ts';
import type { PacketLimit, Statement } from '../core/packets.ts';

/** The length of the message's texts, images and tool calls: about the length of its row. */
export function messageChars({
  content,
  reasoning,
  details,
}: Pick<Message, 'content' | 'reasoning' | 'details'>): number {
  let chars = content.length + (reasoning?.length ?? 0);
  if (!details) return chars;
  for (const part of details.parts ?? []) {
    chars += part.type === 'text' ? part.text.length : part.image_url.url.length;
  }
  if (details.tool_calls) chars += JSON.stringify(details.tool_calls).length;
  return chars;
}

/** The start of a text that fits into one packet, cut between code points. */
export function firstPart(text: string, { chars }: PacketLimit): string {
  if (text.length <= chars) return text;
  return text.slice(0, isLowSurrogate(text.charCodeAt(chars)) ? chars - 1 : chars);
}

/** A column with the text, and the one with its length in UTF-16 units. */
export interface TextColumn {
  readonly text: 'content' | 'reasoning';
  readonly length: 'length' | 'reasoning_length';
}

export const CONTENT: TextColumn = { text: 'content', length: 'length' };
export const REASONING: TextColumn = { text: 'reasoning', length: 'reasoning_length' };

/**
 * The statements that append the rest of a text after its first part. Each fits into one packet.
 * @param done the length of the first part
 * @param before the length of the stored text before the first part
 */
export function appendRest(
  uid: string,
  text: string,
  done: number,
  before: number,
  packet: PacketLimit,
  column = CONTENT,
): Statement[] {
  if (done === text.length) return [];
  const statements: Statement[] = [];
  const sql = `UPDATE messages SET ${column.text} = CONCAT(${column.text}, ?), ${column.length} = ?
    WHERE uid = ? AND ${column.length} = ?`;
  for (let at = done; at < text.length; ) {
    const part = firstPart(text.slice(at, at + packet.chars + 1), packet);
    statements.push({ sql, bindings: [part, before + at + part.length, uid, before + at] });
    at += part.length;
  }
  return statements;
}

/** As {@link appendRest}, of the JSON of `details`, whose length is counted in bytes. */
export function appendDetails(uid: string, json: string, done: number, packet: PacketLimit): Statement[] {
  const statements: Statement[] = [];
  const sql = 'UPDATE messages SET details = CONCAT(details, ?) WHERE uid = ? AND OCTET_LENGTH(details) = ?';
  for (let at = done; at < json.length; ) {
    const part = firstPart(json.slice(at, at + packet.chars + 1), packet);
    statements.push({ sql, bindings: [part, uid, Buffer.byteLength(json.slice(0, at))] });
    at += part.length;
  }
  return statements;
}

/** Whether the text is longer than `max_allowed_packet`, so that it cannot be stored. */
export function isTooLong(text: string, { bytes }: PacketLimit): boolean {
  return text.length > bytes / 3 && Buffer.byteLength(text) > bytes;
}

/** The part of the reply that can be stored. */
export function storable(reply: Message, packet: PacketLimit): Message {
  const content = cutToFit(reply.content, packet);
  const reasoning = reply.reasoning && cutToFit(reply.reasoning, packet);
  const details = reply.role === 'assistant' ? detailsThatFit(reply.details, packet) : reply.details;
  if (content === reply.content && reasoning === reply.reasoning && details === reply.details) return reply;
  const kept = { ...reply, content, reasoning, details };
  return reply.status === 'complete' ? { ...kept, status: 'incomplete', finishReason: 'length' } : kept;
}

/** Tool calls are dropped together if they are too long, because a part of their JSON is invalid. */
function detailsThatFit(details: MessageDetails | null, packet: PacketLimit): MessageDetails | null {
  if (!details?.tool_calls || !isTooLong(JSON.stringify(details), packet)) return details;
  const { tool_calls: _, ...others } = details;
  return others;
}

function cutToFit(text: string, packet: PacketLimit): string {
  if (!isTooLong(text, packet)) return text;
  return text.slice(0, new TextEncoder().encodeInto(text, new Uint8Array(packet.bytes)).read);
}

function isLowSurrogate(code: number): boolean {
  return code >= 0xdc00 && code <= 0xdfff;
}
