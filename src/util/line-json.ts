/** U+0085, U+2028 and U+2029 end a line for Node's readline and for Python, but not in JSON. */
const LINE_BREAKS = /[\u0085\u2028\u2029]/;
const ALL_LINE_BREAKS = /[\u0085\u2028\u2029]/g;

/** JSON as one line for every reader of lines. In valid JSON these characters are in strings only. */
export function escapeLineBreaks(json: string): string {
  if (!LINE_BREAKS.test(json)) return json;
  return json.replace(ALL_LINE_BREAKS, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** As `JSON.stringify`, with {@link escapeLineBreaks}. */
export function lineJson(value: unknown): string {
  return escapeLineBreaks(JSON.stringify(value));
}
