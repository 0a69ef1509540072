/** Short texts of conversations for lists. */

const TITLE_UNITS = 80;
const PREVIEW_UNITS = 120;
/** Code points of a message that are enough for both; a message that begins with more blanks has neither. */
export const EXCERPT_CHARS = 1000;

const LINE_BREAK = /[\n\r\u2028\u2029]/;
/** Made when it is used: it loads tables for 30 ms, a twentieth of a start. */
let graphemes: Intl.Segmenter | undefined;

/** The first line with text of a question; null without any. @param text its first {@link EXCERPT_CHARS} */
export function defaultTitle(text: string): string | null {
  const line = text.split(LINE_BREAK).find((candidate) => candidate.trim() !== '');
  return line === undefined ? null : cut(line.trim(), TITLE_UNITS);
}

/** One line of a message. */
export function preview(text: string): string {
  return cut(text.trim().replace(/\s+/g, ' '), PREVIEW_UNITS);
}

/** At most `max` UTF-16 units, cut between graphemes. */
function cut(text: string, max: number): string {
  if (text.length <= max) return text;
  graphemes ??= new Intl.Segmenter(undefined, { granularity: 'grapheme' });
  const end = graphemes.segment(text).containing(max)?.index ?? max;
  // One grapheme can be longer than that: cut it between code points.
  return (end > 0 ? text.slice(0, end) : text.slice(0, max).replace(/[\uD800-\uDBFF]$/, '')).trimEnd();
}
