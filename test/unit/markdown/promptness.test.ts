import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createTextFormat } from '../../../src/markdown/index.ts';

/** Each row: a piece, and the text emitted for it; null ends the stream. */
type Steps = readonly (readonly [piece: string | null, emitted: string])[];

const STREAMS: Readonly<Record<string, Steps>> = {
  'words are emitted with their piece': [
    ['今天', '今天'],
    ['天气', '天气'],
    ['很好', '很好'],
    ['。The', '。The'],
    [' quick', ' quick'],
    [' fox', ' fox'],
    [' it’s', ' it’s'],
    [null, ''],
  ],
  'white space at the end of a piece is emitted with the next word': [
    ['The ', 'The'],
    ['quick ', ' quick'],
    ['fox\n', ' fox'],
    ['jumps', '\njumps'],
    ['\n\n', ''],
    ['Over', '\n\nOver'],
  ],
  'emphasis is held until it is closed': [
    ['a ', 'a'],
    ['**', ''],
    ['注意', ' '],
    ['：**', ''],
    ['请', '注意：请'],
    ['先', '先'],
  ],
  'an unclosed mark is emitted when its block ends': [
    ['a *b', 'a '],
    [' c\n', ''],
    ['d\n', ''],
    ['\n', '*b c\nd'],
    ['e', '\n\ne'],
  ],
  'a mark that opens nothing is emitted with the next character': [
    ['2 *', '2'],
    ['* 3', ' ** 3'],
    [' snake_', ' snake'],
    ['case', '_case'],
  ],
  'a formula is held until it is closed': [
    ['Let $a_', 'Let'],
    ['1*b*', ''],
    ['c$', ''],
    [' be', ' $a_1*b*c$ be'],
  ],
  'a price is held until the sentence continues': [
    ['costs $5', 'costs'],
    [' a month', ''],
    [' for one', ' $5 a month for one'],
    ['，只要$9', '，只要'],
    ['，现在', '$9，现在'],
  ],
  'a display formula is emitted as it arrives': [
    ['$$\n', '$$'],
    ['a ', '\na '],
    ['- b', '- b'],
    ['\n$$', '\n$$'],
    ['\n*c* d', '\nc d'],
  ],
  'code is held until it is closed': [
    ['Use `np', 'Use'],
    ['m ci', ''],
    ['`', ''],
    [' now', ' npm ci now'],
  ],
  'a link is emitted with its last parenthesis': [
    ['See [the', 'See '],
    [' docs]', ''],
    ['(http', ''],
    ['://x.y', ''],
    [')', 'the docs (http://x.y)'],
    ['.', '.'],
  ],
  'brackets without a link are emitted with the next character': [
    ['a [b', 'a '],
    ['] c', '[b] c'],
  ],
  'a bare address is emitted as it arrives, except punctuation that may end it': [
    ['https', 'https'],
    [':', ':'],
    ['//ex', '//ex'],
    ['ample.', 'ample'],
    ['com/a_', '.com/a'],
    ['b, ', '_b,'],
  ],
  'headings are emitted as they arrive': [
    ['#', ''],
    ['# ', ''],
    ['Tit', 'Tit'],
    ['le', 'le'],
    [' ##', ''],
    ['\n', ''],
    ['text', '\ntext'],
  ],
  'list items are emitted like paragraphs': [
    ['-', ''],
    [' ', ''],
    ['It', '- It'],
    ['em', 'em'],
    ['\n1', ''],
    ['.', ''],
    [' two', '\n1. two'],
    ['\n   - ', ''],
    ['x', '\n   - x'],
  ],
  'a quote is emitted without its marks': [
    ['>', ''],
    [' a', 'a'],
    ['\n> ', ''],
    ['b', '\nb'],
  ],
  'code is emitted as it arrives, line feeds with the text after them': [
    ['```', ''],
    ['js\n', ''],
    ['let', 'let'],
    [' a', ' a'],
    [';\n', ';'],
    ['\n', ''],
    ['*b*', '\n\n*b*'],
    ['\n``', ''],
    ['`\n', ''],
    ['end', '\nend'],
  ],
  'table rows are emitted when complete, the header when the next line is known': [
    ['| a | ', ''],
    ['b |\n', ''],
    ['|---|', ''],
    ['---|\n', 'a\tb'],
    ['| 1 |', ''],
    [' 2 |\n', '\n1\t2'],
    ['| 3 | 4', ''],
    ['\n\n', '\n3\t4'],
    ['end', '\n\nend'],
  ],
  'a line with a pipe is held from the pipe until the next line is known not to be a delimiter row': [
    ['run a ', 'run a'],
    ['| b', ''],
    [' c\n', ''],
    ['an', ' | b c\nan'],
    ['d', 'd'],
  ],
  'HTML is emitted as it arrives once it is known to be a block': [
    ['<det', ''],
    ['ails>', '<details>'],
    ['\n<sum', '\n<sum'],
    ['mary>', 'mary>'],
  ],
  'digits at the start of a line are text when no list marker follows': [
    ['20', ''],
    ['24', ''],
    ['年', '2024年'],
  ],
  'a carriage return is a line ending immediately': [
    ['a\r', 'a'],
    ['\nb', '\nb'],
  ],
};

describe('final text is emitted immediately', () => {
  for (const [name, steps] of Object.entries(STREAMS)) {
    it(name, () => {
      const stream = createTextFormat().stream();
      const actual = steps.map(([piece]) => [piece, piece === null ? stream.end() : stream.push(piece)]);
      assert.deepEqual(actual, steps);
    });
  }
});
