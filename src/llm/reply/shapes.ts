/** Reads the JSON of model servers. A member of the wrong type counts as missing. */
import type { Logprobs } from '../../domain/chat/model.ts';
import type { Usage } from '../../domain/conversations/conversation.ts';
import { isObject, parseJson } from '../../util/json.ts';

export type Json = Record<string, unknown>;

const MAX_NAME_LENGTH = 200;

/** The object of a JSON text; undefined for other values and text. */
export function parseObject(text: string): Json | undefined {
  const value = parseJson(text);
  return isObject(value) ? value : undefined;
}

/** The only choice: no request asks for more. */
export function firstChoice(body: Json): Json | undefined {
  const first: unknown = Array.isArray(body.choices) ? body.choices[0] : undefined;
  return isObject(first) ? first : undefined;
}

/** The member when it is a string, else ''. */
export function textOf(object: unknown, name: string): string {
  const value = isObject(object) ? object[name] : undefined;
  return typeof value === 'string' ? value : '';
}

export function modelName(body: Json): string | undefined {
  const { model } = body;
  return typeof model === 'string' && model !== '' && model.length <= MAX_NAME_LENGTH && model.isWellFormed()
    ? model
    : undefined;
}

/** The text of an ordinary chunk, else ''. */
export function plainText({ delta }: Json): string {
  if (!isObject(delta)) return '';
  const isPlain = delta.tool_calls == null && delta.reasoning_content == null && delta.reasoning == null;
  return isPlain ? textOf(delta, 'content') : '';
}

/** What a piece of a reply adds. */
export interface Piece {
  readonly text: string;
  /** The text is the model's refusal. */
  readonly isRefusal: boolean;
  readonly reasoning: string;
  /** Entries of `tool_calls`. */
  readonly calls: readonly unknown[];
  /** Whether it has reasoning or a tool call in any form, so that the model is working even without text. */
  readonly isActive: boolean;
  /** Whether it came as a whole message and not as a delta. */
  readonly isMessage: boolean;
}

/**
 * The piece in a choice: a delta, a whole message in its place, or the `text` of the older completions API. The content
 * of a delta or message is text, a list of typed parts, or a refusal.
 */
export function pieceOf(choice: Json): Piece {
  const piece = isObject(choice.delta) ? bodyPiece(choice.delta, false) : NOTHING;
  if (!isBlank(piece)) return piece;
  if (isObject(choice.message)) return bodyPiece(choice.message, true);
  return isObject(choice.delta) ? piece : { ...NOTHING, text: textOf(choice, 'text') };
}

const NOTHING: Piece = {
  text: '',
  isRefusal: false,
  reasoning: '',
  calls: [],
  isActive: false,
  isMessage: false,
};

function isBlank({ text, reasoning, calls }: Piece): boolean {
  return text === '' && reasoning === '' && calls.length === 0;
}

function bodyPiece(body: Json, isMessage: boolean): Piece {
  const content = contentPiece(body.content);
  const refusal = content.text === '' ? textOf(body, 'refusal') : '';
  return {
    text: content.text || refusal,
    isRefusal: refusal !== '' || content.isRefusal,
    reasoning: reasoningText(body) || content.reasoning,
    calls: callsOf(body),
    isActive: content.isActive || showsWork(body),
    isMessage,
  };
}

function callsOf({ tool_calls, function_call }: Json): readonly unknown[] {
  if (Array.isArray(tool_calls)) return tool_calls;
  // `function_call` belongs to the older API.
  return [tool_calls, function_call].filter(isObject).slice(0, 1);
}

/** Reads the first member that has text, because some servers send the same reasoning in two members. */
function reasoningText(body: Json): string {
  for (const name of ['reasoning_content', 'reasoning', 'thinking']) {
    const text = textOf(body, name);
    if (text !== '') return text;
  }
  return '';
}

const WORK = [
  'reasoning_content',
  'reasoning',
  'reasoning_details',
  'thinking',
  'thinking_blocks',
  'tool_calls',
  'function_call',
];

function showsWork(body: Json): boolean {
  return WORK.some((name) => {
    const value = body[name];
    return typeof value === 'string' || Array.isArray(value) ? value.length > 0 : isObject(value);
  });
}

function contentPiece(content: unknown): Pick<Piece, 'text' | 'isRefusal' | 'reasoning' | 'isActive'> {
  if (typeof content === 'string') return { text: content, isRefusal: false, reasoning: '', isActive: false };
  const parts: readonly unknown[] = Array.isArray(content) ? content : [content];
  return {
    text: parts.map(partText).join(''),
    isRefusal: parts.some((part) => textOf(part, 'type') === 'refusal'),
    reasoning: parts.map(partReasoning).join(''),
    isActive: parts.some(isObject),
  };
}

/** Parts of other types have no text. */
function partText(part: unknown): string {
  if (typeof part === 'string') return part;
  if (!isObject(part)) return '';
  if (part.type === 'refusal') return textOf(part, 'refusal');
  const isText = part.type === undefined || (typeof part.type === 'string' && /text$/.test(part.type));
  return isText ? textOf(part, 'text') || textOf(part.text, 'value') : '';
}

/** `thinking` and `reasoning` parts, whose text may be a list of parts. */
function partReasoning(part: unknown): string {
  if (!isObject(part) || (part.type !== 'thinking' && part.type !== 'reasoning')) return '';
  const inner = part[part.type];
  return Array.isArray(inner)
    ? inner.map(partText).join('')
    : textOf(part, part.type) || textOf(part, 'text');
}

/** The log probabilities of a choice; undefined without any. */
export function logprobsOf({ logprobs }: Json): Logprobs | undefined {
  if (!isObject(logprobs)) return undefined;
  const { content, refusal } = logprobs;
  const tokens = (value: unknown): readonly unknown[] =>
    Array.isArray(value) && isShallow(value) ? value : [];
  const found = { content: tokens(content), refusal: tokens(refusal) };
  return found.content.length + found.refusal.length === 0 ? undefined : found;
}

/** Much deeper values overflow the stack of JSON.stringify. */
const MAX_DEPTH = 100;

export function isShallow(value: unknown, depth = MAX_DEPTH): boolean {
  if (typeof value !== 'object' || value === null) return true;
  return depth > 0 && Object.values(value).every((member) => isShallow(member, depth - 1));
}

/** The `finish_reason`, in any of the members that servers use for it. */
export function reasonOf(choice: Json): string | undefined {
  const reason = choice.finish_reason ?? choice.finishReason;
  if (typeof reason === 'string') return reason === '' ? undefined : reason;
  return textOf(choice.delta, 'finish_reason') || undefined;
}

export function usageOf(body: Json): Usage | null {
  const { usage } = body;
  if (!isObject(usage)) return null;
  const prompt = count(usage.prompt_tokens);
  const completion = count(usage.completion_tokens);
  if (prompt === undefined || completion === undefined) return null;
  const total = count(usage.total_tokens) ?? prompt + completion;
  const cached = detail(usage.prompt_tokens_details, 'cached_tokens');
  const reasoning = detail(usage.completion_tokens_details, 'reasoning_tokens');
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: total,
    ...(cached !== undefined && { cached_tokens: cached }),
    ...(reasoning !== undefined && { reasoning_tokens: reasoning }),
  };
}

function detail(details: unknown, name: string): number | undefined {
  return isObject(details) ? count(details[name]) : undefined;
}

function count(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}
