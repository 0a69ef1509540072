/** Reads JSON files whose format can change. A member of an unexpected type counts as missing. */
import { isObject } from '../../src/util/json.ts';

export type Members = Readonly<Record<string, unknown>>;

/** The value if it is an object, otherwise an empty object. */
export function members(value: unknown): Members {
  return isObject(value) ? value : {};
}

export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** The value if it is text, without characters that the database does not store; otherwise ''. */
export function text(value: unknown): string {
  return typeof value === 'string' ? value.replaceAll('\0', '').toWellFormed() : '';
}

const MAX_SECONDS = 1e11;
const LATEST = Date.UTC(9999, 11, 31);

/**
 * Converts a time to milliseconds since 1970: text, or a number of seconds or a smaller unit. Null for any other value.
 */
export function time(value: unknown): number | null {
  if (typeof value === 'string') return time(Date.parse(value));
  if (typeof value !== 'number' || !(value > 0)) return null;
  let seconds = value;
  while (seconds > MAX_SECONDS && Number.isFinite(seconds)) seconds /= 1000;
  const instant = Math.round(seconds * 1000);
  return instant <= LATEST ? instant : null;
}

/** A code block. Its fence is longer than those inside it. */
export function fenced(content: string, language = ''): string {
  const fences = content.match(/`{3,}/g) ?? [];
  const fence = '`'.repeat(fences.reduce((longest, { length }) => Math.max(longest, length), 2) + 1);
  // Without the lookbehind, a long run of empty lines takes quadratic time.
  const code = content.replace(/(?<!\n)\n+$/, '');
  return content.trim() === '' ? '' : `${fence}${language}\n${code}\n${fence}`;
}

/** The parts that are not empty, in paragraphs. */
export function paragraphs(...parts: readonly string[]): string {
  return parts.filter((part) => part.trim() !== '').join('\n\n');
}

const TITLE_UNITS = 200;
const MODEL_UNITS = 255;

/** A title that is not too long; undefined when it is blank. */
export function titleOf(value: unknown): string | undefined {
  return shortened(text(value).trim(), TITLE_UNITS) || undefined;
}

/** The member `model` of a message; no member when it is empty. */
export function modelOf(value: unknown): { model?: string } {
  const model = shortened(text(value), MODEL_UNITS);
  return model === '' ? {} : { model };
}

/** The first `units` UTF-16 units, without half a surrogate pair at the end. */
export function shortened(content: string, units: number): string {
  return content.length <= units ? content : content.slice(0, units).replace(/[\uD800-\uDBFF]$/, '');
}

/** Takes the place of an image or another file that the export does not contain. */
export function placeholder(kind: 'image' | 'audio' | 'file', name = ''): string {
  return name === '' ? `[${kind}]` : `[${kind}: ${name}]`;
}
