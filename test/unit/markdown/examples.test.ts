import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createTextFormat } from '../../../src/markdown/index.ts';

const format = createTextFormat();

type Examples = Readonly<Record<string, readonly [markdown: string, text: string][]>>;

/** Examples of the main rules. */
const MAIN_RULES: Examples = {
  'emphasis next to CJK punctuation counts': [['**注意：**请先保存', '注意：请先保存']],
  'operators, snake case and code stay untouched': [
    ['2 ** 3', '2 ** 3'],
    ['snake_case', 'snake_case'],
    ['x_1 and y_1', 'x_1 and y_1'],
    ['`2**3**4` and `a_b_`', '2**3**4 and a_b_'],
    ['```\n**a** _b_ [c](d)\n```', '**a** _b_ [c](d)'],
  ],
  'heading, emphasis, quote and rule marks are removed': [
    ['# Title\n\ntext', 'Title\n\ntext'],
    ['Title\n===\ntext', 'Title\ntext'],
    ['*a* **b** ***c*** _d_ ~~e~~', 'a b c d e'],
    ['> a\n> b\n>\n> > c', 'a\nb\n\nc'],
    ['a\n\n---\n\nb', 'a\n\nb'],
    ['a\n***\nb', 'a\n\nb'],
  ],
  'code marks and fences are removed': [
    ['`a` and ``b ` c``', 'a and b ` c'],
    ['Text:\n```js\nlet a;\n\n  b\n```\nend', 'Text:\nlet a;\n\n  b\nend'],
    ['~~~\na\n~~~', 'a'],
  ],
  'list items keep their markers': [
    ['- a\n* b\n+ c', '- a\n- b\n- c'],
    ['1. a\n2. b\n3) c', '1. a\n2. b\n3) c'],
    ['- a\n    - b\n        1. c', '- a\n  - b\n    1. c'],
    ['1. a\n   - b\n\n   more', '1. a\n   - b\n\n   more'],
    ['- [ ] a\n- [x] b', '- [ ] a\n- [x] b'],
    ['- a\n\n- b', '- a\n\n- b'],
  ],
  'a link is its text and its address, an image its description': [
    ['[text](http://x.y)', 'text (http://x.y)'],
    ['[text](<a b> "title")', 'text (a b)'],
    ['[http://x.y](http://x.y)', 'http://x.y'],
    ['[](http://x.y)', 'http://x.y'],
    ['<http://x.y> http://x.y <a@b.c>', 'http://x.y http://x.y a@b.c'],
    ['![alt *text*](a.png)', 'alt text'],
    ['[![alt](a.png)](http://x.y)', 'alt (http://x.y)'],
  ],
  'table cells are joined by tabs': [
    ['| a | b |\n|---|:-:|\n| 1 | *2* |\n| `x\\|y` | |', 'a\tb\n1\t2\nx|y\t'],
    ['text\na | b\n--|--\nc | d\n\nend', 'text\na\tb\nc\td\n\nend'],
  ],
};

const FURTHER_RULES: Examples = {
  'breaks are line feeds': [
    ['a  \nb\\\nc\nd', 'a\nb\nc\nd'],
    ['a\r\nb\r\rc', 'a\nb\n\nc'],
  ],
  'HTML is unchanged': [
    ['<b title="*x*">*a*</b>', '<b title="*x*">a</b>'],
    ['<div>\n*a*\n\n*b*', '<div>\n*a*\n\nb'],
  ],
  'formulas are unchanged': [
    ['Let $a_{1}*b_{1}$ and $c*d$ be, $x_i^* = y_j^*$.', 'Let $a_{1}*b_{1}$ and $c*d$ be, $x_i^* = y_j^*$.'],
    ['其中$\\{x*y*z\\}$是集合，$50\\%$', '其中$\\{x*y*z\\}$是集合，$50\\%$'],
    ['**$\\text{one two *x*}$** a $$x*y*z$$ b', '$\\text{one two *x*}$ a $$x*y*z$$ b'],
    [
      'The area \\( a_1 * b_1 * c \\) and \\[ \\{a*b*c\\} \\]',
      'The area \\( a_1 * b_1 * c \\) and \\[ \\{a*b*c\\} \\]',
    ],
    ['$$\na &= b \\\\\n- c\n# d\n= e\n$$\n*f*', '$$\na &= b \\\\\n- c\n# d\n= e\n$$\nf'],
    ['So:\n\\[\nx \\mid *a*\n+ b \\]\n*c*', 'So:\n\\[\nx \\mid *a*\n+ b \\]\nc'],
    [
      '- a\n  $$ \\begin{x}\n  1. *b*\n  \\end{x} $$\n- c',
      '- a\n  $$ \\begin{x}\n  1. *b*\n  \\end{x} $$\n- c',
    ],
    ['| $\\|x\\|$ | \\(a*b*\\) |\n|-|-|', '$|x|$\t\\(a*b*\\)'],
    ['a\n\n$$ *x*\n\n*b*', 'a\n\n$$ *x*\n\nb'],
  ],
  'prices, variables and escaped brackets are no formulas': [
    ['It costs *$5* to *$10*', 'It costs $5 to $10'],
    ['US$5 *a* US$', 'US$5 a US$'],
    ['$HOME and $PATH *x*', '$HOME and $PATH x'],
    ['$5 is *less* than you think$', '$5 is less than you think$'],
    ['只要$5，*真的*便宜$', '只要$5，真的便宜$'],
    ['$$$ *a* $$$', '$$$ a $$$'],
    ['\\$a*b*\\$', '$ab$'],
    ['[\\[1\\]](u) \\[1, 2\\] \\[*a*\\](b)', '[1] (u) [1, 2] [a](b)'],
    ['\\[1] Smith *x*\n*y*', '[1] Smith x\ny'],
    ['`$a` *b* `c$`', '$a b c$'],
  ],
  'products and powers of numbers are unchanged': [['3*4*5, 2**3**4 and *3*x', '3*4*5, 2**3**4 and 3x']],
  'escapes and character references are resolved': [['\\*a\\* &lt; &#x4e2d; &amp;amp;', '*a* < 中 &amp;']],
  'blank lines are reduced to one, and removed at both ends': [['\n\na\n\n\n\nb\n\n\n', 'a\n\nb']],
  'blank lines inside code stay': [['```\na\n\n\nb\n```', 'a\n\n\nb']],
  'reference definitions and footnotes are unchanged': [
    ['[foo][1] [^2]\n\n[1]: https://x.y\n[^2]: note', '[foo][1] [^2]\n\n[1]: https://x.y\n[^2]: note'],
  ],
  'a single tilde is text': [
    ['3~5天，6~7天', '3~5天，6~7天'],
    ['~a~', '~a~'],
  ],
  'a bare address is text, and ends where Chinese text begins': [
    ['**https://x.y/a_b_c**，谢谢', 'https://x.y/a_b_c，谢谢'],
    ['https://x.y/*a*/b', 'https://x.y/*a*/b'],
    ['*https://x.y*', 'https://x.y'],
    ['https://x.y/a*b，*谢谢*', 'https://x.y/a*b，谢谢'],
  ],
  'the header of a table ends open spans of the lines before it': [
    ['*a\nb* | c\n--|--', '*a\nb*\tc'],
    ['a\\\nb | c\n--|--', 'a\\\nb\tc'],
    ['*a\nb* | c', 'a\nb | c'],
  ],
  'a link ends all brackets around it': [['[a [b](c) d](e) [f](g)', '[a b (c) d](e) f (g)']],
  'the header of a table has a pipe': [['a\n|-|\nb', 'a\n|-|\nb']],
  'if strikethrough and emphasis cross, the one that ends first counts': [['~~a *b~~ c*', 'a *b c*']],
  'quotes and lists nested deeper than a hundred levels are text': [[`${'>'.repeat(102)} a`, '>> a']],
  'text is indented by at most 24 columns': [
    [`${'- '.repeat(20)}a\nb`, `${'- '.repeat(20)}a\n${' '.repeat(24)}b`],
  ],
  'an empty item is its marker': [['- a\n-\n- b\n\n1.', '- a\n-\n- b\n\n1.']],
  'text that is cut off is rendered as far as it is complete': [
    ['a **b', 'a **b'],
    ['a `b *c*', 'a `b c'],
    ['[a](http://x', '[a](http://x'],
    ['```js\nlet a', 'let a'],
    ['| a | b |', '| a | b |'],
    ['| a | b |\n|---|---|\n| 1 | 2', 'a\tb\n1\t2'],
    ['a **', 'a **'],
    ['a \\', 'a \\'],
    ['# Ti', 'Ti'],
    ['-', '-'],
  ],
  'NUL is replaced and a byte order mark dropped': [['\ufeffa\0b', 'a\ufffdb']],
  'an empty document is empty text': [
    ['', ''],
    [' \n\t\n', ''],
  ],
};

for (const [title, examples] of Object.entries({
  'the main rules': MAIN_RULES,
  'further rules': FURTHER_RULES,
})) {
  describe(title, () => {
    for (const [name, pairs] of Object.entries(examples)) {
      it(name, () => {
        for (const [markdown, text] of pairs) assert.equal(format.whole(markdown), text);
      });
    }
  });
}
