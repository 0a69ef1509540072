/** Reads the JSON of model servers. A member of the wrong type counts as missing. */
import type { FinishReason, Usage } from '../domain/conversations/conversation.ts';

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

/** Servers report an error inside a 200 response as a member `error` or as the `finish_reason`. */
export function reportsError(body: Json, choice: Json | undefined): boolean {
  return (body.error !== undefined && body.error !== null) || choice?.finish_reason === 'error';
}

/** Undefined before the end of the reply. Reasons without a meaning here, such as tool calls, count as `stop`. */
export function finishReason(choice: Json | undefined): FinishReason | undefined {
  const reason = choice?.finish_reason;
  if (typeof reason !== 'string' || reason === '') return undefined;
  return reason === 'length' || reason === 'content_filter' ? reason : 'stop';
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
