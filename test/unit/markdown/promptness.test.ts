import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createTextFormat } from '../../../src/markdown/index.ts';

/** Each row: a piece, and what leaves with it. The last piece is the end when it is null. */
type Steps = readonly (readonly [piece: string | null, leaves: string])[];

const STREAMS: Readonly<Record<string, Steps>> = {
  'words leave with the piece that brings them': [
    ['今天', '今天'],
    ['天气', '天气'],
    ['很好', '很好'],
    ['。The', '。The'],
    [' quick', ' quick'],
    [' fox', ' fox'],
    [' it’s', ' it’s'],
    [null, ''],
  ],
  'white space at the end of a piece leaves with the next word': [
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
  'what is never closed leaves when its block ends': [
    ['a *b', 'a '],
    [' c\n', ''],
    ['d\n', ''],
    ['\n', '*b c\nd'],
    ['e', '\n\ne'],
  ],
  'a mark that opens nothing leaves with the next character': [
    ['2 *', '2'],
    ['* 3', ' ** 3'],
    [' snake_', ' snake'],
    ['case', '_case'],
  ],
  'code is held until it is closed': [
    ['Use `np', 'Use'],
    ['m ci', ''],
    ['`', ''],
    [' now', ' npm ci now'],
  ],
  'a link leaves with its last parenthesis': [
    ['See [the', 'See '],
    [' docs]', ''],
    ['(http', ''],
    ['://x.y', ''],
    [')', 'the docs (http://x.y)'],
    ['.', '.'],
  ],
  'brackets that are no link leave with the next character': [
    ['a [b', 'a '],
    ['] c', '[b] c'],
  ],
  'a bare address leaves as it comes, but for punctuation that may end it': [
    ['https', 'https'],
    [':', ':'],
    ['//ex', '//ex'],
    ['ample.', 'ample'],
    ['com/a_', '.com/a'],
    ['b, ', '_b,'],
  ],
  'headings leave as they come': [
    ['#', ''],
    ['# ', ''],
    ['Tit', 'Tit'],
    ['le', 'le'],
    [' ##', ''],
    ['\n', ''],
    ['text', '\ntext'],
  ],
  'list items leave like paragraphs': [
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
  'a quote leaves without its marks': [
    ['>', ''],
    [' a', 'a'],
    ['\n> ', ''],
    ['b', '\nb'],
  ],
  'code leaves as it comes, line feeds with what follows them': [
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
  'table rows leave when they are complete, the header when the next line is known': [
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
  'a line with a pipe is held from the pipe until the next line is no table': [
    ['run a ', 'run a'],
    ['| b', ''],
    [' c\n', ''],
    ['an', ' | b c\nan'],
    ['d', 'd'],
  ],
  'HTML leaves as it comes once it is known to be a block': [
    ['<det', ''],
    ['ails>', '<details>'],
    ['\n<sum', '\n<sum'],
    ['mary>', 'mary>'],
  ],
  'digits at the start of a line are no list when text follows': [
    ['20', ''],
    ['24', ''],
    ['年', '2024年'],
  ],
  'a carriage return is a line ending at once': [
    ['a\r', 'a'],
    ['\nb', '\nb'],
  ],
};

describe('what cannot change any more leaves at once', () => {
  for (const [name, steps] of Object.entries(STREAMS)) {
    it(name, () => {
      const stream = createTextFormat().stream();
      const actual = steps.map(([piece]) => [piece, piece === null ? stream.end() : stream.push(piece)]);
      assert.deepEqual(actual, steps);
    });
  }
});
