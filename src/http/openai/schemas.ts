/** The bodies of OpenAI's chat completions API. Unknown members of a request are passed on to the model server. */
import { z } from 'zod';
import { base64Bytes } from '../request/images.ts';
import { MAX_USER_CHARS, metadata, modelName } from '../schemas/chat.ts';
import { jsonProblem, KNOWN } from '../schemas/parameters.ts';
import { imageUrl, type MessageLimits, textOfParts } from '../schemas/parts.ts';

const ROLES = ['system', 'developer', 'user', 'assistant', 'tool', 'function'] as const;

const flag = z.boolean('must be true or false').nullish();
const text = z.string('must be text');

function contentPart(limits: MessageLimits) {
  return z
    .looseObject(
      {
        type: text,
        text: text.optional(),
        refusal: text.optional(),
        image_url: z.looseObject({ url: imageUrl(limits), detail: text.nullish() }).optional(),
      },
      'must be a content part',
    )
    .superRefine(({ type, ...part }, context) => {
      if ((type === 'text' || type === 'image_url' || type === 'refusal') && part[type] === undefined)
        context.addIssue({ code: 'custom', path: [type], message: 'is required' });
    });
}

const toolCall = z.looseObject({
  id: text,
  type: text.optional(),
  function: z.looseObject({ name: text, arguments: text }).optional(),
});

function message(limits: MessageLimits) {
  return z
    .looseObject(
      {
        role: z.enum(ROLES, `must be one of ${ROLES.join(', ')}`),
        content: z
          .union([z.string(), z.array(contentPart(limits))], {
            error: 'must be text or an array of content parts',
          })
          .nullish(),
        tool_calls: z.array(toolCall, 'must be an array').nullish(),
        tool_call_id: text.nullish(),
        refusal: text.nullish(),
        reasoning_content: text.nullish(),
      },
      'must be a message',
    )
    .superRefine(({ role, content, tool_call_id }, context) => {
      const problem = (path: string, issue: string) =>
        context.addIssue({ code: 'custom', path: [path], message: issue });
      if (role !== 'assistant' && (content === undefined || content === null))
        problem('content', 'is required');
      if (role === 'tool' && !tool_call_id) problem('tool_call_id', 'is required');
      const { messageMaxChars } = limits;
      if (role !== 'assistant' && textOf(content).length > messageMaxChars)
        problem('content', `must be at most ${messageMaxChars} characters long`);
    });
}

type SentMessage = z.output<ReturnType<typeof message>>;

/** The text of a message. Parts without text add nothing. */
function textOf(content: SentMessage['content']): string {
  return typeof content === 'string' ? content : textOfParts(content ?? []);
}

/** The index of the first tool result that answers no call of the reply before it; -1 if there is none. */
function unansweredResult(messages: readonly SentMessage[]): number {
  let calls = new Set<string>();
  return messages.findIndex(({ role, tool_calls, tool_call_id }) => {
    if (role === 'assistant') calls = new Set(tool_calls?.map(({ id }) => id));
    return role === 'tool' && !calls.has(tool_call_id ?? '');
  });
}

function imageBytes(messages: readonly SentMessage[]): number {
  let bytes = 0;
  for (const { content } of messages) {
    if (typeof content !== 'object' || content === null) continue;
    for (const { image_url } of content) bytes += image_url ? base64Bytes(image_url.url) : 0;
  }
  return bytes;
}

const parameters = Object.fromEntries(
  Object.entries(KNOWN).map(([name, schema]) => [name, schema.nullish()]),
) as { [Name in keyof typeof KNOWN]: z.ZodOptional<z.ZodNullable<(typeof KNOWN)[Name]>> };

export function completionRequest(limits: MessageLimits) {
  const { imagesMaxBytes } = limits;
  const messages = z
    .array(message(limits), 'must be an array')
    .min(1, 'must not be empty')
    .superRefine((sent, context) => {
      const at = unansweredResult(sent);
      const issue = 'must answer a call of the reply before it';
      if (at >= 0) context.addIssue({ code: 'custom', path: [at, 'tool_call_id'], message: issue });
      if (imageBytes(sent) <= imagesMaxBytes) return;
      const tooLarge = `must have images of at most ${imagesMaxBytes} bytes together`;
      context.addIssue({ code: 'custom', message: tooLarge });
    });
  return z
    .looseObject({
      ...parameters,
      messages,
      model: modelName.nullish().meta({ description: 'The model to use; default: OPENAI_MODEL' }),
      stream: flag,
      stream_options: z.looseObject({ include_usage: flag }).nullish(),
      n: z.literal(1, 'must be 1; call again for another reply').nullish(),
      store: flag.meta({ description: '`false`: the turn is not stored' }),
      metadata: metadata.nullish(),
      user: text.max(MAX_USER_CHARS, `must be at most ${MAX_USER_CHARS} characters long`).nullish(),
      tools: z.array(z.looseObject({ type: text }), 'must be an array').nullish(),
      tool_choice: z.union([text, z.looseObject({})]).nullish(),
    })
    .superRefine((body, context) => {
      for (const [name, value] of Object.entries(body)) {
        const problem = jsonProblem(name) ?? jsonProblem(value);
        if (problem !== undefined) context.addIssue({ code: 'custom', path: [name], message: problem });
      }
    })
    .meta({ id: 'ChatCompletionRequest', description: 'Further members are passed on to the model server' });
}

export type CompletionRequest = z.output<ReturnType<typeof completionRequest>>;

const tokens = z.int();

const completionUsage = z
  .object({
    prompt_tokens: tokens,
    completion_tokens: tokens,
    total_tokens: tokens,
    prompt_tokens_details: z.object({ cached_tokens: tokens }).optional(),
    completion_tokens_details: z.object({ reasoning_tokens: tokens }).optional(),
  })
  .meta({ id: 'CompletionUsage' });

const completionReason = z.enum(['stop', 'length', 'tool_calls', 'content_filter']);

const call = z.looseObject({
  id: z.string(),
  type: z.literal('function'),
  function: z.object({ name: z.string(), arguments: z.string() }),
});

const logprobs = z
  .object({ content: z.array(z.unknown()).nullable(), refusal: z.array(z.unknown()).nullable() })
  .nullable()
  .meta({ description: 'As the model server sends them' });

export const completion = z
  .object({
    id: z.string(),
    object: z.literal('chat.completion'),
    created: z.int().meta({ description: 'Seconds since 1970' }),
    model: z.string(),
    choices: z.array(
      z.object({
        index: z.int(),
        message: z.object({
          role: z.literal('assistant'),
          content: z.string().nullable(),
          refusal: z.string().nullable(),
          reasoning_content: z.string().optional(),
          tool_calls: z.array(call).optional(),
        }),
        logprobs,
        finish_reason: completionReason,
      }),
    ),
    usage: completionUsage.optional(),
  })
  .meta({ id: 'ChatCompletion' });

export type CompletionBody = z.input<typeof completion>;

export const completionChunk = z
  .object({
    id: z.string(),
    object: z.literal('chat.completion.chunk'),
    created: z.int(),
    model: z.string(),
    choices: z.array(
      z.object({
        index: z.int(),
        delta: z.object({
          role: z.literal('assistant').optional(),
          content: z.string().optional(),
          refusal: z.string().nullable().optional(),
          reasoning_content: z.string().optional(),
          tool_calls: z.array(call.extend({ index: z.int() })).optional(),
        }),
        logprobs,
        finish_reason: completionReason.nullable(),
      }),
    ),
    usage: completionUsage.nullable().optional(),
  })
  .meta({ id: 'ChatCompletionChunk' });

export const openAiError = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().nullable(),
    }),
  })
  .meta({ id: 'OpenAiError' });

export const model = z
  .object({ id: z.string(), object: z.literal('model'), created: z.int(), owned_by: z.string() })
  .meta({ id: 'Model' });

export const modelList = z
  .object({ object: z.literal('list'), data: z.array(model) })
  .meta({ id: 'ModelList' });
