/** JSON as it came over the wire: how deep it is, and where it breaks. Neither recurses. */

/** How deeply arrays and objects may nest. Far beyond any real request, far below any stack. */
export const MAX_DEPTH = 64;

/** True when arrays and objects nest deeper than `limit`. Linear, and stops at the first that does. */
export function tooDeep(text: string, limit = MAX_DEPTH): boolean {
  if (text.length <= limit) return false;
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
      if (depth > limit) return true;
    } else if (unit === 0x5d || unit === 0x7d) depth -= 1;
  }
  return false;
}

const SPACE = /[ \t\n\r]*/y;
const SCALAR = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids exactly these inside strings
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"/y;

function match(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : -1;
}

type Expected = 'value' | 'firstValue' | 'key' | 'firstKey' | 'colon' | 'next' | 'end';

/**
 * The offset (UTF-16 units) of the first character that cannot be part of JSON, the length where it just ends too
 * early, or -1 when it is whole. For error messages only: V8's own quote the body and often leave the place out.
 */
export function jsonFaultAt(text: string): number {
  const open: string[] = [];
  let expected: Expected = 'value';
  let at = match(SPACE, text, 0);
  const after = (): Expected => (open.length === 0 ? 'end' : 'next');
  while (at < text.length) {
    const unit = text.charAt(at);
    let end = at + 1;
    if (expected === 'end') return at;
    if (expected === 'colon') {
      if (unit !== ':') return at;
      expected = 'value';
    } else if (expected === 'next') {
      const closing = open.at(-1) === '[' ? ']' : '}';
      if (unit === ',') expected = closing === ']' ? 'value' : 'key';
      else if (unit === closing) {
        open.pop();
        expected = after();
      } else return at;
    } else if ((expected === 'firstKey' && unit === '}') || (expected === 'firstValue' && unit === ']')) {
      open.pop();
      expected = after();
    } else if (expected === 'key' || expected === 'firstKey') {
      end = match(STRING, text, at);
      if (end < 0) return at;
      expected = 'colon';
    } else if (unit === '[' || unit === '{') {
      open.push(unit);
      expected = unit === '[' ? 'firstValue' : 'firstKey';
    } else {
      end = match(unit === '"' ? STRING : SCALAR, text, at);
      if (end < 0) return at;
      expected = after();
    }
    at = match(SPACE, text, end);
  }
  return expected === 'end' ? -1 : text.length;
}
