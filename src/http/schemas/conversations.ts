import { z } from 'zod';
import type { ConversationCursor } from '../../domain/conversations/conversation.ts';
import { cursorFormat, instant, messageStatus, pageQuery, paging, uuid } from './common.ts';

export const messageCursor = cursorFormat((seq: number) => `m${seq}`, /^m(\d{1,15})$/, Number);

export const conversationCursor = cursorFormat<ConversationCursor>(
  ({ lastActive, id }) => `c${lastActive}.${id}`,
  /^c(\d{1,15})\.([\da-f-]{36})$/,
  (lastActive, id) => ({ lastActive: Number(lastActive), id }),
);

export const conversationId = z.object({ id: uuid });
export const conversationQuery = pageQuery(messageCursor);
export const listQuery = pageQuery(conversationCursor);

const message = z
  .object({
    id: uuid,
    role: z.enum(['user', 'assistant', 'tool']),
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
