import { mkdtempSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface WordListFile {
  readonly path: string;
  /** Replaces the words of the list. */
  save(...words: readonly string[]): Promise<void>;
  remove(): void;
}

/** A file with a list of words, in its own folder. */
export async function wordListFile(...words: readonly string[]): Promise<WordListFile> {
  const folder = mkdtempSync(join(tmpdir(), 'chat-api-words-'));
  const path = join(folder, 'words.txt');
  const save = (...next: readonly string[]) => writeFile(path, `# words\n${next.join('\n')}\n`);
  await save(...words);
  return { path, save, remove: () => rmSync(folder, { recursive: true, force: true }) };
}
