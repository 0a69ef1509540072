/** Code units with a meaning in Markdown, and their classes. */

export const TAB = 0x09;
export const NEWLINE = 0x0a;
export const SPACE = 0x20;
export const BANG = 0x21;
export const QUOTE = 0x22;
export const HASH = 0x23;
export const DOLLAR = 0x24;
export const AMPERSAND = 0x26;
export const APOSTROPHE = 0x27;
export const PAREN_OPEN = 0x28;
export const PAREN_CLOSE = 0x29;
export const STAR = 0x2a;
export const PLUS = 0x2b;
export const DASH = 0x2d;
export const DOT = 0x2e;
export const SLASH = 0x2f;
export const COLON = 0x3a;
export const SEMICOLON = 0x3b;
export const LESS = 0x3c;
export const EQUALS = 0x3d;
export const GREATER = 0x3e;
export const QUESTION = 0x3f;
export const AT = 0x40;
export const BRACKET_OPEN = 0x5b;
export const BACKSLASH = 0x5c;
export const BRACKET_CLOSE = 0x5d;
export const UNDERSCORE = 0x5f;
export const BACKTICK = 0x60;
export const BRACE_OPEN = 0x7b;
export const PIPE = 0x7c;
export const BRACE_CLOSE = 0x7d;
export const TILDE = 0x7e;

export function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

export function isAlpha(code: number): boolean {
  return (code >= 0x41 && code <= 0x5a) || (code >= 0x61 && code <= 0x7a);
}

export function isAlphanumeric(code: number): boolean {
  return isAlpha(code) || isDigit(code);
}

/** Space or tab. */
export function isSpace(code: number): boolean {
  return code === SPACE || code === TAB;
}

/** Space, tab or line ending. */
export function isBlank(code: number): boolean {
  return code === SPACE || code === TAB || code === NEWLINE;
}

/** ASCII control character, including line endings and tab. */
export function isControl(code: number): boolean {
  return (code >= 0 && code < 0x20) || code === 0x7f;
}

/** A character that a backslash can escape. */
export function isAsciiPunctuation(code: number): boolean {
  return (
    (code >= 0x21 && code <= 0x2f) ||
    (code >= 0x3a && code <= 0x40) ||
    (code >= 0x5b && code <= 0x60) ||
    (code >= 0x7b && code <= 0x7e)
  );
}

const SPECIAL = '\t\n !$&*.:<[\\]_`~';
const SPECIAL_CODES = new Uint8Array(128);
for (const char of SPECIAL) SPECIAL_CODES[char.charCodeAt(0)] = 1;

/** Whether this code unit may start something other than plain text. */
export function isSpecial(code: number): boolean {
  return code < 128 && SPECIAL_CODES[code] === 1;
}

const PLAIN = /^[ \t]*[^\0\t\n\r !$&*.:<[\\\]_`|~]+(?:[ \t]+[^\0\t\n\r !$&*.:<[\\\]_`|~]+)*$/;

/** Whether the text is plain text in the middle of a line. White space at its end is excluded: it may be dropped. */
export function isPlain(text: string): boolean {
  return PLAIN.test(text);
}
