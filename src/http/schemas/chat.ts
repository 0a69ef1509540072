import { z } from 'zod';
import { MAX_METADATA } from '../../domain/chat/turns.ts';
import { isObject } from '../../util/json.ts';
import { queryParameters } from '../request/query.ts';
import {
  boundedNames,
  cleanText,
  finishReason,
  ignored,
  instant,
  questionId,
  refusal,
  replyFormat,
  strictObject,
  toolCalls,
  usage,
  uuid,
} from './common.ts';
import { parameterChanges } from './parameters.ts';
import { type MessageLimits, messageContent } from './parts.ts';

export interface ChatLimits extends MessageLimits {
  /** Whether `parameters.extra` is allowed. */
  readonly allowsExtra: boolean;
}

export const MAX_USER_CHARS = 128;
const MAX_RESULTS = 128;
/** Some gateways put the signature of the model's thoughts into the id. */
const MAX_CALL_ID = 4096;
const MAX_METADATA_NAME = 64;
const MAX_METADATA_CHARS = 512;

const limited = (min: number, max: number) =>
  cleanText(
    z.string('must be text').min(min, 'must not be empty').max(max, `must be at most ${max} characters long`),
  );

export const endUser = limited(1, MAX_USER_CHARS).meta({ description: "The caller's end user" });

const METADATA_RULE = `must be an object of at most ${MAX_METADATA} texts`;
const metadataName = limited(1, MAX_METADATA_NAME).refine(
  (name) => name !== '__proto__',
  'must not be __proto__',
);
const metadataText = limited(0, MAX_METADATA_CHARS);

/** The caller's own notes about a conversation. */
export const metadata = z
  .custom<Readonly<Record<string, string>>>(isObject, METADATA_RULE)
  .meta({
    override: {
      type: 'object',
      maxProperties: MAX_METADATA,
      additionalProperties: { type: 'string', maxLength: MAX_METADATA_CHARS },
    },
    description: `Merged into that of the conversation, which has up to ${MAX_METADATA} members`,
  })
  .superRefine((value, context) => {
    const members = Object.entries(value);
    if (members.length > MAX_METADATA) context.addIssue({ code: 'custom', message: METADATA_RULE });
    for (const [name, text] of members.slice(0, MAX_METADATA)) {
      const problems = [...problemsOf(metadataName, name, 'the name '), ...problemsOf(metadataText, text)];
      for (const message of problems)
        context.addIssue({ code: 'custom', path: boundedNames([name]), message });
    }
  });

function problemsOf(schema: z.ZodType, value: unknown, subject = ''): string[] {
  return schema.safeParse(value).error?.issues.map(({ message }) => `${subject}${message}`) ?? [];
}

/** @param maxChars in UTF-16 units */
export function systemPrompt(maxChars: number) {
  return limited(0, maxChars).meta({ description: 'The system prompt; an empty one sends none' });
}

export const modelName = limited(1, 200);

function toolResults(maxChars: number) {
  const id = limited(1, MAX_CALL_ID).meta({ description: 'The `id` of the call' });
  return z
    .array(strictObject({ tool_call_id: id, content: limited(0, maxChars) }), 'must be an array')
    .min(1, 'must not be empty')
    .max(MAX_RESULTS, `must have at most ${MAX_RESULTS} results`)
    .refine(
      (results) => new Set(results.map(({ tool_call_id }) => tool_call_id)).size === results.length,
      'must answer each call once',
    )
    .meta({ description: 'The results of all calls of the newest reply, in place of `message`' });
}

export function chatRequest(limits: ChatLimits) {
  const { messageMaxChars } = limits;
  return z
    .object({
      message: messageContent(limits).optional(),
      system: systemPrompt(messageMaxChars).optional(),
      parameters: parameterChanges(limits.allowsExtra).optional(),
      user: endUser.optional(),
      metadata: metadata.optional(),
      reasoning: z.boolean('must be true or false').optional().meta({
        description: "Whether the response has the model's reasoning; default: false",
      }),
      tool_results: toolResults(messageMaxChars).optional(),
      regenerate: uuid.optional().meta({
        description:
          'The id of a reply, or of its question: makes a new reply, in place of `message`. The earlier reply and ' +
          'every later message become `superseded`',
      }),
      edit: uuid.optional().meta({
        description:
          'The id of a question: `message` takes its place. The question and every later message become `superseded`',
      }),
      conversation_id: uuid.optional().meta({
        description:
          'The conversation to continue; an unknown or expired id starts a new conversation with this id',
      }),
      format: replyFormat.optional(),
      model: modelName.optional().meta({ description: 'The model to use; default: OPENAI_MODEL' }),
      cache: z.boolean().optional().meta({ description: '`false` bypasses the response cache' }),
    })
    .superRefine((body, context) => {
      for (const [path, message] of questionProblems(body)) {
        context.addIssue({ code: 'custom', path: [path], message });
      }
    })
    .meta({ id: 'ChatRequest' });
}

/** What a turn can reply to in place of `message`, or together with it. */
const KINDS = ['tool_results', 'regenerate', 'edit'] as const;

type Question = { readonly [Name in 'message' | 'conversation_id' | (typeof KINDS)[number]]?: unknown };

/** Exactly one member says what the turn replies to; `message` belongs to `edit`. */
function questionProblems(body: Question): [path: string, message: string][] {
  const [kind, ...others] = KINDS.filter((name) => body[name] !== undefined);
  const hasMessage = body.message !== undefined;
  if (kind === undefined) return hasMessage ? [] : [['message', 'is required']];
  const problems = others.map((other): [string, string] => [other, `must not be sent together with ${kind}`]);
  if (kind === 'edit' && !hasMessage) problems.push(['message', 'is required with edit']);
  if (kind !== 'edit' && hasMessage) problems.push([kind, 'must not be sent together with message']);
  if (body.conversation_id === undefined) problems.push(['conversation_id', `is required with ${kind}`]);
  return problems;
}

export type ChatRequest = z.output<ReturnType<typeof chatRequest>>;

/**
 * The members of a body and the query parameters, as `?name`, that the server does not use; undefined without any.
 * @throws AppError `validation` for repeated parameters
 */
export function ignoredNames(
  { shape }: ReturnType<typeof chatRequest>,
  body: unknown,
  url: string,
): string[] | undefined {
  const names = Object.keys(Object(body)).filter((name) => !Object.hasOwn(shape, name));
  for (const name of Object.keys(queryParameters(url))) names.push(`?${name}`);
  return names.length === 0 ? undefined : boundedNames(names);
}

export const chatReply = z
  .object({
    response: z.string(),
    reasoning: z
      .string()
      .optional()
      .meta({ description: 'What the model said before its reply, where the request asks for it' }),
    tool_calls: toolCalls.optional(),
    refusal,
    conversation_id: uuid,
    message_id: uuid,
    question_id: questionId,
    cached: z.boolean(),
    model: z.string(),
    format: replyFormat,
    finish_reason: finishReason,
    usage: usage.nullable(),
    expires_at: instant.nullable().meta({ description: 'null: conversations do not expire' }),
    persisted: z.boolean(),
    ignored,
  })
  .meta({ id: 'ChatReply' });

export type ChatReplyBody = z.input<typeof chatReply>;
