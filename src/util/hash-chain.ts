import { hash } from 'node:crypto';

/** The hash of a list of texts that grows. SHA-256, 64 hexadecimal digits. */
export function hashOf(texts: readonly string[]): string {
  return texts.reduce(chained, '');
}

/** The hash of a longer list: of the hash so far, and the next text. */
export function chained(before: string, text: string): string {
  return hash('sha256', `${before} ${text}`, 'hex');
}
