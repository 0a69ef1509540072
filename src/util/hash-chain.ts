import { hash } from 'node:crypto';

/** 132 bits: what is found by such a hash is compared. On SQLite each turn pays for the length of this index. */
const CHARS = 22;

/** The hash of a list of texts that grows: 22 characters of base64url. */
export function hashOf(texts: readonly string[]): string {
  return texts.reduce(chained, '');
}

/** The hash of a longer list: of the hash so far, and the next text. The start of a SHA-256. */
export function chained(before: string, text: string): string {
  return hash('sha256', `${before} ${text}`, 'base64url').slice(0, CHARS);
}
