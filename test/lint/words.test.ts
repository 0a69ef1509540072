import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { fileURLToPath } from 'node:url';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const PLACES = ['src/**/*.{ts,js,html}', 'scripts/**/*.ts', 'README*.md', 'CONTRIBUTING.md', 'docs/**/*.md'];

/** Each has a plainer or more exact term. */
const AVOIDED = [
  'whoever',
  'somebody',
  'nobody',
  'anybody',
  'everybody',
  'is told',
  'goes on',
  'lets go',
  'let go',
  'in the end',
  'at once',
  'what is left of',
  'for its own sake',
  'had been',
];
const PATTERN = new RegExp(
  `\\b(?:${AVOIDED.map((words) => words.replaceAll(' ', '\\s+(?:\\*\\s+)?')).join('|')})\\b`,
  'gi',
);
const MAX_HITS = 10;

it(`code and documents use at most ${MAX_HITS} of the words to avoid`, () => {
  // layers.test.ts plants files beside ours.
  const files = globSync(PLACES, { cwd: PROJECT }).filter((file) => !file.includes('planted-'));
  assert(files.length > 200, `only ${files.length} files were read`);
  const hits = files.flatMap((file) => {
    const text = readFileSync(join(PROJECT, file), 'utf8');
    return [...text.matchAll(PATTERN)].map(({ 0: words, index }) => {
      const line = text.slice(0, index).split('\n').length;
      return `${file}:${line}: ${words}`;
    });
  });
  assert(hits.length <= MAX_HITS, `${hits.length} hits:\n${hits.join('\n')}`);
});
