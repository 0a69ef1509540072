const SPECIAL = '\t\n !&*.:<[\\]_`~';
const SPECIAL_CODES = new Uint8Array(128);
for (const char of SPECIAL) SPECIAL_CODES[char.charCodeAt(0)] = 1;

/** Whether plain text of a paragraph ends, or may end, at this code unit. */
export function isSpecial(code: number): boolean {
  return code < 128 && SPECIAL_CODES[code] === 1;
}

const PLAIN = /^[ \t]*[^\0\t\n\r !&*.:<[\\\]_`|~]+(?:[ \t]+[^\0\t\n\r !&*.:<[\\\]_`|~]+)*$/;

/** Whether the text, in the middle of a line, means nothing but itself. (White space at its end might be dropped.) */
export function isPlain(text: string): boolean {
  return PLAIN.test(text);
}
