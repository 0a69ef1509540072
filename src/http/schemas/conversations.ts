import { z } from 'zod';
import { type ConversationCursor, RATINGS, ROLES } from '../../domain/conversations/conversation.ts';
import { type ChatLimits, endUser, metadata, modelName, systemPrompt } from './chat.ts';
import {
  cleanText,
  cursorFormat,
  finishReason,
  instant,
  messageStatus,
  pageQuery,
  paging,
  refusal,
  strictObject,
  toolCalls,
  usage,
  uuid,
} from './common.ts';
import { parameterChanges } from './parameters.ts';

const TITLE_CHARS = 200;
const COMMENT_CHARS = 2000;
const QUERY_CHARS = 200;

export const role = z.enum(ROLES, 'must be user, assistant, tool or system');

export const contentPart = z.discriminatedUnion('type', [
  z.object({ type: z.literal('text'), text: z.string() }),
  z.object({
    type: z.literal('image_url'),
    image_url: z.object({ url: z.string(), detail: z.enum(['auto', 'low', 'high']).optional() }),
  }),
]);

export const feedback = z
  .object({ rating: z.enum(RATINGS), comment: z.string().nullable() })
  .meta({ id: 'Feedback' });

export const messageCursor = cursorFormat((seq: number) => `m${seq}`, /^m(\d{1,16})$/, Number);

export const conversationCursor = cursorFormat<ConversationCursor>(
  ({ lastActive, id, within }) => `c${lastActive}.${id}${within ? `.${within.id}.${within.seq}` : ''}`,
  /^c(\d{1,15})\.([\da-f-]{36})(?:\.([\da-f-]{36})\.(\d{1,16}))?$/,
  (lastActive, id = '', within = '', seq = '') => ({
    lastActive: Number(lastActive),
    id,
    ...(within && { within: { id: within, seq: Number(seq) } }),
  }),
);

export const conversationQuery = pageQuery(messageCursor).extend({
  order: z.enum(['asc', 'desc'], 'must be asc or desc').default('asc').meta({
    description: '`desc`: newest message first',
  }),
  include: z.literal('superseded', 'must be superseded').optional().meta({
    description: 'Also the messages that a later reply or an edited question has replaced',
  }),
});
export const listQuery = pageQuery(conversationCursor).extend({
  q: cleanText(
    z.string().min(1, 'must not be empty').max(QUERY_CHARS, `must be at most ${QUERY_CHARS} characters long`),
  )
    .optional()
    .meta({
      description:
        'Only those with this text in the title or a visible message, upper and lower case alike. A page ends after ' +
        'one second of work: it can be empty though `has_more` is true',
    }),
  user: endUser.optional().meta({ description: 'Only those of this end user' }),
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
    tool_calls: toolCalls.optional(),
    tool_call_id: z
      .string()
      .optional()
      .meta({ description: 'Of a message of a tool: the call that it answers' }),
    refusal,
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
    messages: z.array(
      message
        .extend({
          reply_to: uuid.optional().meta({
            description: 'What it replies to, where the order of the messages does not tell',
          }),
        })
        .meta({ id: 'ExportedMessage' }),
    ),
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
  .object({
    conversations: z.array(listedConversation),
    ...paging,
    searched: z
      .int()
      .optional()
      .meta({ description: 'With `q`: how many conversations were searched for this page' }),
  })
  .meta({ id: 'ConversationList' });

/** The limits of settings. */
export type SettingsLimits = Pick<ChatLimits, 'messageMaxChars' | 'allowsExtra'>;

export const title = cleanText(z.string().max(TITLE_CHARS, `must be at most ${TITLE_CHARS} characters long`))
  .refine((text) => text.trim() !== '', 'must not be blank')
  .meta({ description: '`null`: the first line of the first question' });

function changes({ messageMaxChars, allowsExtra }: SettingsLimits) {
  return {
    title: title.nullable().optional(),
    system: systemPrompt(messageMaxChars).nullable().optional(),
    model: modelName.nullable().optional(),
    parameters: parameterChanges(allowsExtra).nullable().optional(),
    metadata: metadata.nullable().optional().meta({ description: 'Replaced as a whole' }),
    pinned: z
      .boolean('must be true or false')
      .nullable()
      .transform((pinned) => pinned ?? false)
      .optional(),
  };
}

export function newConversation(limits: SettingsLimits) {
  return strictObject({ ...changes(limits), user: endUser.optional() }).meta({ id: 'NewConversation' });
}

export function conversationPatch(limits: SettingsLimits) {
  return strictObject(changes(limits)).meta({ id: 'ConversationPatch' });
}

export const forkRequest = strictObject({
  message_id: uuid.optional().meta({ description: 'The last message to copy; default: all' }),
  title: title.optional().meta({ description: 'Default: that of the source' }),
}).meta({ id: 'ForkRequest' });

export const feedbackRequest = strictObject({
  rating: z.enum(RATINGS, 'must be up or down'),
  comment: cleanText(
    z.string('must be text').max(COMMENT_CHARS, `must be at most ${COMMENT_CHARS} characters long`),
  ).optional(),
}).meta({ id: 'FeedbackRequest' });

export const ratedMessage = z
  .object({ message_id: uuid, feedback: feedback.nullable() })
  .meta({ id: 'RatedMessage' });

export const deleted = z
  .object({ conversation_id: uuid, deleted: z.literal(true) })
  .meta({ id: 'DeletedConversation' });

export type ConversationBody = z.input<typeof conversation>;
export type ConversationListBody = z.input<typeof conversationList>;
export type ListedConversationBody = z.input<typeof listedConversation>;
export type MessageBody = z.input<typeof message>;
