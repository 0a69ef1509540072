const SPECIAL = '\t\n !&*.:<[\\]_`~';
const SPECIAL_CODES = new Uint8Array(128);
for (const char of SPECIAL) SPECIAL_CODES[char.charCodeAt(0)] = 1;

/** Whether this code unit may start something other than plain text. */
export function isSpecial(code: number): boolean {
  return code < 128 && SPECIAL_CODES[code] === 1;
}

const PLAIN = /^[ \t]*[^\0\t\n\r !&*.:<[\\\]_`|~]+(?:[ \t]+[^\0\t\n\r !&*.:<[\\\]_`|~]+)*$/;

/** Whether the text is plain text in the middle of a line. White space at its end is excluded: it may be dropped. */
export function isPlain(text: string): boolean {
  return PLAIN.test(text);
}
