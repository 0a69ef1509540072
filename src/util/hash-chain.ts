import { hash } from 'node:crypto';

/** The hash of a list of texts that grows: of the list so far, and of its next text. SHA-256, 64 hexadecimal digits. */
export function chained(before: string, text: string): string {
  return hash('sha256', `${before} ${text}`, 'hex');
}
