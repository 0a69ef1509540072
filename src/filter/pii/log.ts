import { maskPersonal } from './pii.ts';

/** Everything that is masked has an `@`, or eleven digits with at most one separator between two of them. */
const CANDIDATE = /@|[0-9０-９](?:[- ]?[0-9０-９]){10}/;
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/g;
/** UUIDs and digests, whose digits can look like a card or mobile number. */
const IDENTIFIER = /([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,})/i;

/** Masks personal data in the strings of a JSON log line; numbers, UUIDs and digests stay unchanged. */
export function maskLogLine(line: string): string {
  if (!CANDIDATE.test(line)) return line;
  return line.replace(STRING, (quoted) => {
    if (!CANDIDATE.test(quoted)) return quoted;
    const text: unknown = JSON.parse(quoted);
    if (typeof text !== 'string') return quoted;
    const masked = text
      .split(IDENTIFIER)
      .map((part, index) => (index % 2 === 0 ? maskPersonal(part) : part))
      .join('');
    return masked === text ? quoted : JSON.stringify(masked);
  });
}
