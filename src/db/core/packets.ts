/** Plain statements, and the packets in which MySQL gets them. */
export type Value = string | number;

export interface Statement {
  readonly sql: string;
  readonly bindings: readonly (Value | null)[];
}

/** What the server accepts on a connection. */
export interface PacketLimit {
  /** The longest text of one statement, in UTF-16 units. */
  readonly chars: number;
  /** `max_allowed_packet`, which limits the length of a value in UTF-8 too. */
  readonly bytes: number;
}

export const UNLIMITED: PacketLimit = { chars: Number.POSITIVE_INFINITY, bytes: Number.POSITIVE_INFINITY };
/** Of a UTF-16 unit in UTF-8; escaped ASCII takes two. */
const BYTES_PER_CHAR = 3;
/** Of a statement and its values beside the text. */
const STATEMENT_BYTES = 2048;
const MIN_PART_CHARS = 64;
const MAX_NUMBER_BYTES = 24;

export function packetLimit(bytes: number): PacketLimit {
  const chars = Math.floor((bytes / 2 - STATEMENT_BYTES) / BYTES_PER_CHAR);
  return { chars: Math.max(MIN_PART_CHARS, chars), bytes };
}

/** Groups statements so that each group stays below half of `max_allowed_packet`. */
export function packets(statements: readonly Statement[], { bytes }: PacketLimit): Statement[][] {
  const groups: Statement[][] = [];
  let left = 0;
  for (const statement of statements) {
    const size = statementBytes(statement);
    const last = groups.at(-1);
    if (last && size <= left) last.push(statement);
    else {
      groups.push([statement]);
      left = bytes / 2;
    }
    left -= size;
  }
  return groups;
}

/** At most. */
function statementBytes({ sql, bindings }: Statement): number {
  let bytes = sql.length + 2;
  for (const value of bindings) {
    bytes += typeof value === 'string' ? BYTES_PER_CHAR * value.length + 2 : MAX_NUMBER_BYTES;
  }
  return bytes;
}
