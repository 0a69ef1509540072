import { AppError } from '../../domain/errors.ts';

/** How deeply arrays and objects may nest. V8 takes four times as long for a body of brackets as for a flat one. */
const MAX_DEPTH = 64;
/** How many characters V8 quotes on either side of an unexpected token. */
const QUOTED = 10;
/** Characters that are parsed again to find the position, which takes about 25 ms. */
const MAX_SEARCHED = 2 * 1024 * 1024;

/**
 * Parses a JSON body. Of members with the same name the last one counts.
 * @throws AppError `malformed_json`, with the position of the error, where it is known, and no text of the body
 */
export function parseJson(bytes: Uint8Array): unknown {
  const text = decodeUtf8(bytes);
  if (isTooDeep(text)) {
    throw new AppError('malformed_json', `The body must not nest deeper than ${MAX_DEPTH} levels`);
  }
  try {
    return JSON.parse(text);
  } catch {
    const position = errorPosition(text);
    const problem = position === text.length ? 'ends too early,' : 'is malformed';
    const place = position === undefined ? '' : ` at position ${position}`;
    throw new AppError('malformed_json', `The JSON of the body ${problem}${place}`);
  }
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new AppError('malformed_json', 'The body must be valid UTF-8');
  }
}

function isTooDeep(text: string): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    if (inString) {
      if (unit === 0x5c) i += 1;
      else if (unit === 0x22) inString = false;
    } else if (unit === 0x22) inString = true;
    else if (unit === 0x5b || unit === 0x7b) {
      depth += 1;
      if (depth > MAX_DEPTH) return true;
    } else if (unit === 0x5d || unit === 0x7d) depth -= 1;
  }
  return false;
}

/**
 * The offset of the first error in UTF-16 units, from V8's message; the length of the text when it ends too early.
 * For an unexpected token V8 quotes the characters around it instead. The margin makes V8 quote as many before the token
 * as after it.
 */
function errorPosition(text: string): number | undefined {
  const margin = ' '.repeat(QUOTED);
  const padded = margin + text + margin;
  const message = syntaxErrorOf(padded);
  const position = / at position (\d+) \(line \d+ column \d+\)$/.exec(message)?.[1];
  if (position !== undefined) return Math.min(Number(position) - QUOTED, text.length);
  const quoted = /^Unexpected token .+?, \.{3}"(.+)"\.{3} is not valid JSON$/s.exec(message)?.[1];
  return quoted === undefined ? text.length : tokenPosition(quoted, padded);
}

/**
 * Where parsing fails, of the places where the quoted characters stand; undefined when the search would take too long.
 */
function tokenPosition(quoted: string, padded: string): number | undefined {
  let low = padded.indexOf(quoted);
  let high = padded.lastIndexOf(quoted);
  for (let searched = 0; low < high; ) {
    const middle = Math.floor((low + high) / 2);
    searched += middle;
    if (searched > MAX_SEARCHED) return undefined;
    const isMalformed = syntaxErrorOf(padded.slice(0, middle + QUOTED + 1)).startsWith('Unexpected token');
    if (isMalformed) high = padded.lastIndexOf(quoted, middle);
    else low = padded.indexOf(quoted, middle + 1);
  }
  return low;
}

function syntaxErrorOf(text: string): string {
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    return error instanceof Error ? error.message : '';
  }
}
