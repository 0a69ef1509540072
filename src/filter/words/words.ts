import { readFile } from 'node:fs/promises';
import { errorCode } from '../../domain/errors.ts';

/** UTF-16 units; it bounds what a stream holds back. */
const MAX_WORD = 200;
const LINE_FEED = 0x0a;
const COMMENT = '#';
const INVISIBLE = /^[\p{Default_Ignorable_Code_Point}\p{M}\p{Z}]*$/u;

/** What is wrong with a list of words, in one line: the file, the place, never a word. */
export class WordListError extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'WordListError';
  }
}

/**
 * The words of a file: one word or phrase a line, in UTF-8, trimmed; blank lines and lines that begin with `#` do not
 * count.
 * @throws WordListError when it cannot be read, or which line cannot be a word and why
 */
export async function loadWords(path: string): Promise<string[]> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const code = errorCode(error) ?? 'unknown error';
    throw new WordListError(`${path} cannot be read (${code})`, error);
  }
  return parseWords(bytes, path);
}

/** Like {@link loadWords}, of bytes that are there; `name` stands for them in errors. */
export function parseWords(bytes: Uint8Array, name: string): string[] {
  return decode(bytes, name)
    .split('\n')
    .flatMap((line, index) => {
      const word = line.trim();
      if (word === '' || word.startsWith(COMMENT)) return [];
      const fault = wordError(word);
      if (fault !== undefined) throw new WordListError(`${name}, line ${index + 1}: ${fault}`);
      return [word];
    });
}

function decode(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new WordListError(`${name}, line ${brokenLine(bytes)}: not UTF-8`, error);
  }
}

function brokenLine(bytes: Uint8Array): number {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  for (let line = 1, at = 0; ; line++) {
    const end = bytes.indexOf(LINE_FEED, at);
    try {
      decoder.decode(bytes.subarray(at, end < 0 ? bytes.length : end));
    } catch {
      return line;
    }
    if (end < 0) return line;
    at = end + 1;
  }
}

function wordError(word: string): string | undefined {
  if (word.length > MAX_WORD) return `longer than ${MAX_WORD} characters`;
  if (/\p{Cc}/u.test(word)) return 'a control character';
  if (INVISIBLE.test(word)) return 'nothing that can be seen';
  return undefined;
}
