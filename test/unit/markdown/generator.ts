import fc from 'fast-check';

const WORDS = ['a', 'b', 'foo', 'x_1', '中文', '注意', '漢字', '한국', '𠮷', '😀', '1', '2'];
const PUNCTUATION = [
  '：',
  '，',
  '。',
  '（',
  '）',
  '“',
  '！',
  '!',
  '.',
  ',',
  '(',
  ')',
  '"',
  "'",
  '-',
  '+',
  '=',
  '#',
];
const MARKS = [
  '*',
  '**',
  '***',
  '_',
  '__',
  '`',
  '``',
  '[',
  ']',
  '](u)',
  '](<u v> "t")',
  '](/a(b)c)',
  '![',
  '\\',
  '\\*',
  '<',
];
const WHOLE = [
  '~~del~~',
  '<b>',
  '</b>',
  '<!-- c -->',
  '<a href="*x*">',
  '<http://x.y>',
  '<a@b.c>',
  '&amp;',
  '&',
  '&#35;',
];
const ADDRESSES = ['http://a.com/b_c_d ', 'www.a.com/*b* ', 'https://a.b/(c).\n'];
const SPACES = [' ', ' ', ' ', ' ', '  ', '\t', '\u00a0', '\u3000'];
const LINE_ENDINGS = ['\n', '\n', '\n\n', '\n\n', '  \n', '\\\n', '\r\n', '\r'];
const STARTS = ['- ', '* ', '+ ', '1. ', '> ', '>', '# ', '### ', '  ', '   ', '    ', '- - ', '> - '];
const LINES = [
  '```\n',
  '```js\n',
  '~~~\n',
  '---\n',
  '===\n',
  '* * *\n',
  '<div>\n',
  '<pre>\n',
  '</pre>\n',
  '<!--\n',
  '-->\n',
];
const TABLES = [
  '| a | b |\n',
  '|---|---|\n',
  '|',
  'c | d\n',
  '| a | b |\n|:--|--:|\n| `x\\|y` | *c* |\n',
  ':-|-:\n',
];

const INLINE = [...WORDS, ...PUNCTUATION, ...MARKS, ...WHOLE, ...SPACES];
const BLOCKS = [
  ...LINE_ENDINGS,
  ...STARTS,
  ...STARTS.map((start) => `${start}a`),
  ...STARTS.map((start) => `\n${start}中文 *x* `),
  ...LINES,
  ...TABLES,
];

function glued(pieces: readonly string[], maxLength: number): fc.Arbitrary<string> {
  return fc.array(fc.constantFrom(...pieces), { minLength: 1, maxLength }).map((parts) => parts.join(''));
}

/** Markdown of one or more paragraphs. */
export const inlineMarkdown = glued([...INLINE, ...ADDRESSES, '\n', '\n\n'], 20);

/** Markdown of all kinds of blocks. */
export const blockMarkdown = glued([...WORDS, ...BLOCKS, ...BLOCKS], 20);

/** Everything. */
export const markdown = glued([...INLINE, ...BLOCKS, ...BLOCKS], 24);

/** Text that is hardly Markdown, lone surrogates and control characters included. */
export const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc
    .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 30 })
    .map((units) => String.fromCharCode(...units)),
  glued([...INLINE, ...BLOCKS, '\0', '\ud83d', '\ude00', '\ufeff', '~', '~~', '2) ', '-\n'], 40),
);

/** Where the text form and the oracle differ: on purpose, or because micromark errs. */
const DIFFERENCES: readonly RegExp[] = [
  // micromark takes `-` alone, and `2.` inside of another container, for text after some blocks.
  /^[ \t>]*(?:(?:[-+*]|\d+[.)])[ \t>]+)*(?:[-+*]|\d+[.)])[ \t]*$/m,
  /(?:\d\d|[02-9])[.)]/,
  // A line ending in code counts as a space, and the white space around it is dropped; micromark keeps it.
  /`[^`]*(?:\n[ \t>]*[ \t]|[ \t]\n|\n *`|` *\n)/,
  // Strikethrough and emphasis that cross: the one that is closed first wins; micromark mixes them up.
  /~~[\s\S]*[*_]|[*_][\s\S]*~~/,
  // A bare address ends at a character outside ASCII; elsewhere it goes on to the next space.
  /(?:https?:|www\.)[^\s<]*[^\0-\x7f]/,
  // The header of a table has a pipe, and is not a lazy line.
  /^[^|\n]*\n[ \t>]*(?:(?:[-+*]|\d\.)[ \t]+)*\|?[ \t]*:?-+:?[ \t]*\|?[ \t]*$/m,
  /^[ \t]*(?:>|[-+*] |1\. )[\s\S]*\n[\s\S]*\|[^\n]*\n[\s\S]*-[^\n]*$/m,
  // A tag that begins no HTML block in the middle of a paragraph begins none on a lazy line either.
  /(?:>|[-+*.] )[\s\S]*\n[ \t>]*<\/?[a-z]/,
  // The white space that inline HTML has at the start of its lines is dropped whole, not up to three columns.
  /<[\s\S]*\n[ \t]/,
  // White space in lines of HTML blocks and of indented code that nothing else is in.
  /^[ \t]+$/m,
  // Micromark loses a blank line in indented code after an empty block quote.
  />[ \t]*\n {4}/,
  // A hard break in the description of an image.
  /!\[[^\]]*(?:\\| {2}|`[^\]]*)\n/,
];

/** Whether a document has something in which the text form is not what the oracle says. */
export function isExempt(document: string): boolean {
  const source = document.replaceAll(/\r\n?/g, '\n');
  return DIFFERENCES.some((difference) => difference.test(source));
}
