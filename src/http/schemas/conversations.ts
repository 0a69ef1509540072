import { z } from 'zod';
import type { ConversationCursor } from '../../domain/conversations/conversation.ts';
import {
  cleanText,
  cursorFormat,
  finishReason,
  instant,
  messageStatus,
  pageQuery,
  paging,
  strictObject,
  usage,
  uuid,
} from './common.ts';

const TITLE_CHARS = 200;
const MODEL_CHARS = 200;
const USER_CHARS = 128;
const METADATA_MEMBERS = 16;
const METADATA_KEY_CHARS = 64;
const METADATA_CHARS = 512;

const parameters = z.record(z.string(), z.unknown());

const metadata = z
  .record(
    cleanText(z.string().min(1).max(METADATA_KEY_CHARS)),
    cleanText(z.string().max(METADATA_CHARS, `must be at most ${METADATA_CHARS} characters long`)),
  )
  .refine(
    (value) => Object.keys(value).length <= METADATA_MEMBERS,
    `must have at most ${METADATA_MEMBERS} members`,
  );

const role = z.enum(['user', 'assistant', 'tool']);

const contentPart = z.discriminatedUnion('type', [
  z.object({ type: z.literal('text'), text: z.string() }),
  z.object({
    type: z.literal('image_url'),
    image_url: z.object({ url: z.string(), detail: z.enum(['auto', 'low', 'high']).optional() }),
  }),
]);

const toolCall = z.object({
  id: z.string(),
  type: z.literal('function'),
  function: z.object({ name: z.string(), arguments: z.string() }),
});

export const feedback = z
  .object({ rating: z.enum(['up', 'down']), comment: z.string().nullable() })
  .meta({ id: 'Feedback' });

export const messageCursor = cursorFormat((seq: number) => `m${seq}`, /^m(\d{1,15})$/, Number);

export const conversationCursor = cursorFormat<ConversationCursor>(
  ({ lastActive, id }) => `c${lastActive}.${id}`,
  /^c(\d{1,15})\.([\da-f-]{36})$/,
  (lastActive, id) => ({ lastActive: Number(lastActive), id }),
);

export const conversationId = z.object({ id: uuid });
export const conversationQuery = pageQuery(messageCursor).extend({
  order: z.enum(['asc', 'desc'], 'must be asc or desc').default('asc').meta({
    description: '`desc`: newest message first',
  }),
  include: z.literal('superseded', 'must be superseded').optional().meta({
    description: 'Also the messages that a later reply or an edited question has replaced',
  }),
});
export const listQuery = pageQuery(conversationCursor).extend({
  user: z.string().min(1).max(USER_CHARS).optional().meta({ description: 'Only those of this end user' }),
  pinned: z
    .enum(['true', 'false'], 'must be true or false')
    .transform((text) => text === 'true')
    .optional()
    .meta({ override: { type: 'boolean' }, description: 'Only those that are pinned, or are not' }),
});

const message = z
  .object({
    id: uuid,
    role,
    content: z.string(),
    timestamp: instant,
    status: messageStatus,
    model: z.string().optional(),
    finish_reason: finishReason.optional(),
    usage: usage.optional(),
    parts: z.array(contentPart).readonly().optional().meta({ description: 'Of a question with images' }),
    reasoning: z.string().optional().meta({ description: 'What the model said before the reply' }),
    tool_calls: z.array(toolCall).readonly().optional(),
    tool_call_id: z
      .string()
      .optional()
      .meta({ description: 'Of a message of a tool: the call that it answers' }),
    refusal: z.literal(true).optional().meta({ description: 'The text is a refusal of the model' }),
    feedback: feedback.optional(),
  })
  .meta({ id: 'Message', description: 'Members without a value are left out' });

const settings = {
  title: z.string().nullable().meta({ description: 'As set, else the first line of the first question' }),
  pinned: z.boolean().meta({ description: 'Does not expire' }),
  user: z.string().nullable(),
  metadata: z.record(z.string(), z.string()),
  system: z.string().nullable(),
  model: z.string().nullable(),
  parameters: z.record(z.string(), z.unknown()),
};

const summary = {
  conversation_id: uuid,
  created_at: instant,
  last_active: instant,
  expires_at: instant.nullable().meta({ description: 'null: never' }),
};

export const conversation = z
  .object({ ...summary, ...settings, messages: z.array(message), ...paging })
  .meta({ id: 'Conversation' });

/** Without what a conversation does not have. */
export const exportedConversation = z
  .object({
    ...summary,
    ...z.object(settings).partial().shape,
    messages: z.array(message),
  })
  .meta({ id: 'ExportedConversation' });

const lastMessage = z
  .object({
    id: uuid,
    role,
    preview: z.string().meta({ description: 'Its beginning on one line, at most 120 characters' }),
    timestamp: instant,
    status: messageStatus,
  })
  .nullable();

export const listedConversation = z
  .object({ ...summary, ...settings, last_message: lastMessage })
  .meta({ id: 'ListedConversation' });

export const conversationList = z
  .object({ conversations: z.array(listedConversation), ...paging })
  .meta({ id: 'ConversationList' });

const text = (min: number, max: number) =>
  cleanText(z.string().max(max, `must be at most ${max} characters long`)).refine(
    (value) => value.trim().length >= min,
    'must not be blank',
  );

/** @param maxChars the longest system prompt, UTF-16 units */
function changes(maxChars: number) {
  return {
    title: text(1, TITLE_CHARS)
      .nullable()
      .optional()
      .meta({ description: '`null`: the first line of the first question' }),
    system: text(1, maxChars).nullable().optional(),
    model: text(1, MODEL_CHARS).nullable().optional(),
    parameters: parameters.nullable().optional(),
    metadata: metadata.nullable().optional().meta({ description: 'Replaced as a whole' }),
    pinned: z.boolean('must be true or false').optional(),
  };
}

export function newConversation(maxChars: number) {
  const user = text(1, USER_CHARS).optional().meta({ description: 'Your end user' });
  return strictObject({ ...changes(maxChars), user }).meta({ id: 'NewConversation' });
}

export function conversationPatch(maxChars: number) {
  return strictObject(changes(maxChars)).meta({ id: 'ConversationPatch' });
}

export const deleted = z
  .object({ conversation_id: uuid, deleted: z.literal(true) })
  .meta({ id: 'DeletedConversation' });

export type ConversationBody = z.input<typeof conversation>;
export type ConversationListBody = z.input<typeof conversationList>;
export type ListedConversationBody = z.input<typeof listedConversation>;
export type MessageBody = z.input<typeof message>;
