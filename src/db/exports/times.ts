/** Converts times as text: over millions of rows, a Date for each would cost more than everything else. */

/** `YYYY-MM-DD HH:mm:ss.SSS` → RFC 3339. */
export function isoOf(column: string): string {
  return `${column.replace(' ', 'T')}Z`;
}

/** The inverse of {@link isoOf}. */
export function columnOf(iso: string): string {
  return iso.slice(0, -1).replace('T', ' ');
}
