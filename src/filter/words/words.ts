import { readFile } from 'node:fs/promises';
import { errorCode } from '../../domain/errors.ts';

/** UTF-16 units. Bounds the text that a stream holds back. */
const MAX_WORD = 200;
const LINE_FEED = 0x0a;
const COMMENT = '#';
const INVISIBLE = /^[\p{Default_Ignorable_Code_Point}\p{M}\p{Z}]*$/u;

/** Names the file and the line, never a word. */
export class WordListError extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'WordListError';
  }
}

/**
 * Reads one trimmed word or phrase per line, in UTF-8; skips blank lines and lines that begin with `#`.
 * @throws WordListError if the file cannot be read or a line is invalid
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

function parseWords(bytes: Uint8Array, name: string): string[] {
  return decode(bytes, name)
    .split('\n')
    .flatMap((line, index) => {
      const word = line.trim();
      if (word === '' || word.startsWith(COMMENT)) return [];
      const error = wordError(word);
      if (error !== undefined) throw new WordListError(`${name}, line ${index + 1}: ${error}`);
      return [word];
    });
}

function decode(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new WordListError(`${name}, line ${invalidLine(bytes)}: not UTF-8`, error);
  }
}

function invalidLine(bytes: Uint8Array): number {
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
  if (INVISIBLE.test(word)) return 'no visible character';
  return undefined;
}
