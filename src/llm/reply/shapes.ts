/** Reads the JSON of model servers. A member of the wrong type counts as missing. */
import type { Usage } from '../../domain/conversations/conversation.ts';

export type Json = Record<string, unknown>;

const MAX_NAME_LENGTH = 200;

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The value of a JSON text, or undefined when it is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The object in a JSON text, or undefined when there is none. */
export function parseObject(text: string): Json | undefined {
  const value = parseJson(text);
  return isObject(value) ? value : undefined;
}

/** The requests ask for one choice. */
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
export function deltaText({ delta }: Json): string {
  return textOf(delta, 'content');
}

/** What a piece of a reply adds. */
export interface Piece {
  readonly text: string;
  /** It holds reasoning or a tool call: the model works, though there is no text. */
  readonly isActive: boolean;
}

/**
 * The piece in a choice of any shape: a delta, or a message that stands in its place; with a text, a list of typed
 * parts or a refusal; or the `text` of the older completions API.
 * @param hasDeltas whether deltas with text came before, which a message would repeat
 */
export function pieceOf(choice: Json, hasDeltas: boolean): Piece {
  const piece = isObject(choice.delta) ? bodyPiece(choice.delta) : NOTHING;
  if (piece.text !== '' || hasDeltas) return piece;
  if (isObject(choice.message)) return bodyPiece(choice.message);
  return isObject(choice.delta) ? piece : { text: textOf(choice, 'text'), isActive: false };
}

const NOTHING: Piece = { text: '', isActive: false };

function bodyPiece(body: Json): Piece {
  const { text, isActive } = contentPiece(body.content);
  return { text: text === '' ? textOf(body, 'refusal') : text, isActive: isActive || showsWork(body) };
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

function contentPiece(content: unknown): Piece {
  if (typeof content === 'string') return { text: content, isActive: false };
  const parts: readonly unknown[] = Array.isArray(content) ? content : [content];
  return { text: parts.map(partText).join(''), isActive: parts.some(isObject) };
}

/** Parts of other types, such as `thinking`, are not shown. */
function partText(part: unknown): string {
  if (typeof part === 'string') return part;
  if (!isObject(part)) return '';
  if (part.type === 'refusal') return textOf(part, 'refusal');
  const isText = part.type === undefined || (typeof part.type === 'string' && /text$/.test(part.type));
  return isText ? textOf(part, 'text') || textOf(part.text, 'value') : '';
}

/** The `finish_reason`, under any of its names and places. */
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
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: total };
}

function count(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}
