import { z } from 'zod';
import type { ConversationCursor } from '../../domain/conversation.ts';
import { cursor, instant, limit, messageStatus, uuid } from './common.ts';

const encode = (text: string) => Buffer.from(text, 'latin1').toString('base64url');
const decode = (text: string) => Buffer.from(text, 'base64url').toString('latin1');

export const messageCursor = {
  encode: (seq: number) => encode(`m${seq}`),
  decode: (text: string): number | undefined => {
    const match = /^m(\d{1,15})$/.exec(decode(text));
    return match ? Number(match[1]) : undefined;
  },
};

export const conversationCursor = {
  encode: (at: ConversationCursor) => encode(`c${at.lastActive}.${at.id}`),
  decode: (text: string): ConversationCursor | undefined => {
    const match = /^c(\d{1,15})\.([\da-f-]{36})$/.exec(decode(text));
    return match ? { lastActive: Number(match[1]), id: String(match[2]) } : undefined;
  },
};

export const conversationId = z.object({ id: uuid });
export const conversationQuery = z.object({ limit: limit(100), cursor: cursor(messageCursor.decode) });
export const listQuery = z.object({ limit: limit(100), cursor: cursor(conversationCursor.decode) });

const message = z
  .object({
    id: uuid,
    role: z.enum(['user', 'assistant']),
    content: z.string(),
    timestamp: instant,
    status: messageStatus,
  })
  .meta({ id: 'Message' });

const summary = {
  conversation_id: uuid,
  created_at: instant,
  last_active: instant,
  expires_at: instant.nullable(),
};

const paging = { has_more: z.boolean(), next_cursor: z.string().nullable() };

export const conversation = z
  .object({ ...summary, messages: z.array(message), ...paging })
  .meta({ id: 'Conversation' });

export const conversationList = z
  .object({ conversations: z.array(z.object(summary)), ...paging })
  .meta({ id: 'ConversationList' });

export const deleted = z
  .object({ conversation_id: uuid, deleted: z.literal(true) })
  .meta({ id: 'DeletedConversation' });

export type ConversationBody = z.input<typeof conversation>;
export type ConversationListBody = z.input<typeof conversationList>;
