/** Messages of a turn, before they are stored. */
import type {
  Instant,
  Message,
  MessageDetails,
  ReplyFormat,
} from '../../../domain/conversations/conversation.ts';

/** A message of the caller, before it has an id. */
export type NewMessage = Pick<Message, 'role' | 'content' | 'replyTo' | 'details'> &
  Partial<Pick<Message, 'finishReason' | 'reasoning'>>;

export function newMessage(
  uid: string,
  conversationId: string,
  message: NewMessage,
  timestamp: Instant,
): Message {
  const none = { model: null, finishReason: null, usage: null, format: null, reasoning: null };
  return { uid, conversationId, timestamp, status: 'complete', ...none, ...message };
}

export function emptyReply(
  uid: string,
  conversationId: string,
  replyTo: string,
  timestamp: Instant,
  asked: {
    readonly model: string;
    readonly format: ReplyFormat;
    readonly details: MessageDetails | null;
  },
): Message & { readonly model: string } {
  const none = { finishReason: null, usage: null, reasoning: null };
  return {
    uid,
    conversationId,
    role: 'assistant',
    content: '',
    timestamp,
    status: 'streaming',
    replyTo,
    ...asked,
    ...none,
  };
}
