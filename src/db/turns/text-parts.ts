/** Texts that are longer than a packet of the database server. */
import type { Message } from '../../domain/conversations/conversation.ts';
import type { PacketLimit, Statement } from '../core/dialect.ts';

/** The start of a text that fits into one packet, cut between code points. */
export function firstPart(text: string, { chars }: PacketLimit): string {
  if (text.length <= chars) return text;
  return text.slice(0, isLowSurrogate(text.charCodeAt(chars)) ? chars - 1 : chars);
}

/**
 * Appends the rest of a text of which the first part is written, in statements that fit into one packet each.
 * @param done how much of the text is written
 * @param before the length of the row without the text
 */
export function appendRest(
  uid: string,
  text: string,
  done: number,
  before: number,
  packet: PacketLimit,
): Statement[] {
  const statements: Statement[] = [];
  const sql = 'UPDATE messages SET content = CONCAT(content, ?), length = ? WHERE uid = ? AND length = ?';
  for (let at = done; at < text.length; ) {
    const part = firstPart(text.slice(at, at + packet.chars + 1), packet);
    statements.push({ sql, bindings: [part, before + at + part.length, uid, before + at] });
    at += part.length;
  }
  return statements;
}

/** A text longer than `max_allowed_packet` cannot be stored. */
export function isTooLong(text: string, { bytes }: PacketLimit): boolean {
  return text.length > bytes / 3 && Buffer.byteLength(text) > bytes;
}

/** The part of the reply that can be stored. */
export function storable(reply: Message, packet: PacketLimit): Message {
  if (!isTooLong(reply.content, packet)) return reply;
  const { read } = new TextEncoder().encodeInto(reply.content, new Uint8Array(packet.bytes));
  const content = reply.content.slice(0, read);
  if (reply.status !== 'complete') return { ...reply, content };
  return { ...reply, content, status: 'incomplete', finishReason: 'length' };
}

function isLowSurrogate(code: number): boolean {
  return code >= 0xdc00 && code <= 0xdfff;
}
