import { maskPersonal } from './pii.ts';

/** Nothing that is masked is without an `@` or eleven digits, between each two of which stands one character at most. */
const WORTH_A_LOOK = /@|[0-9０-９](?:[- ]?[0-9０-９]){10}/;
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/g;
/** Ids and digests, whose digits may look like a number of something. */
const IDENTIFIER = /([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,})/i;

/**
 * A line of the log, which is JSON, with personal data masked in its texts; numbers, UUIDs and digests stay as they
 * are. A line that has none costs a glance.
 */
export function maskLogLine(line: string): string {
  if (!WORTH_A_LOOK.test(line)) return line;
  return line.replace(STRING, (quoted) => {
    if (!WORTH_A_LOOK.test(quoted)) return quoted;
    const text: unknown = JSON.parse(quoted);
    if (typeof text !== 'string') return quoted;
    const masked = text
      .split(IDENTIFIER)
      .map((part, index) => (index % 2 === 0 ? maskPersonal(part) : part))
      .join('');
    return masked === text ? quoted : JSON.stringify(masked);
  });
}
