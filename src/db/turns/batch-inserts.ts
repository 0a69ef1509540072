/** The statements that write the conversations and new messages of a batch of turns. */
import { MESSAGE_INSERT_COLUMNS } from '../core/codec.ts';
import { type Dialect, type PacketLimit, placeholders, repeated, type Statement } from '../core/dialect.ts';
import { type HistoryColumns, SETTINGS_COLUMNS } from '../core/tables.ts';

export interface Activity {
  readonly created: string;
  last: string;
  readonly owner: string | null;
  /** It was not found, but another process may create it at the same time. */
  readonly unseen: boolean;
  history: HistoryColumns;
}

export function hideExpired(expired: ReadonlyMap<string, string>, at: string): Statement[] {
  if (expired.size === 0) return [];
  const each = [...expired].map(() => '(id = ? AND pinned = 0 AND last_active < ?)').join(' OR ');
  const bindings = [...expired].flat();
  const recorded = `INSERT INTO deletions (conversation_id, owner, deleted_at, renewed, pending)
     SELECT id, owner, ?, 1, 1 FROM conversations WHERE ${each}`;
  return [
    { sql: recorded, bindings: [at, ...bindings] },
    {
      sql: `UPDATE conversations SET epoch = epoch + 1, deleted_at = ? WHERE ${each}`,
      bindings: [at, ...bindings],
    },
  ];
}

/** Their earlier messages stay invisible, because the epoch is another one. Their settings go. */
export function restart(
  restarts: ReadonlyMap<string, number>,
  activity: ReadonlyMap<string, Activity>,
): Statement[] {
  const unset = SETTINGS_COLUMNS.split(', ').map((column) => `${column} = NULL`);
  const sql = `UPDATE conversations SET owner = ?, created_at = ?, last_active = ?, epoch = ?, deleted_at = NULL,
     pinned = 0, history_hash = ?, history_open = ?, history_reply = ?, ${unset.join(', ')} WHERE id = ?`;
  return [...restarts].flatMap(([id, epoch]) => {
    const row = activity.get(id);
    if (!row) return [];
    return { sql, bindings: [row.owner, row.created, row.last, epoch, ...historyOf(row), id] };
  });
}

function historyOf({ history }: Activity): (string | null)[] {
  return [history.history_hash, history.history_open, history.history_reply];
}

const CONVERSATION_TUPLE = `(${placeholders(7)})`;
const MESSAGE_COLUMNS = `${MESSAGE_INSERT_COLUMNS}, epoch`;
const MESSAGE_COLUMN_COUNT = MESSAGE_COLUMNS.split(',').length;
const MESSAGE_TUPLE = `(${placeholders(MESSAGE_COLUMN_COUNT)})`;

/**
 * Existing conversations only get a newer activity; restarted ones are up to date. An unseen one must still not exist: another process may have
 * created it for another owner, and the plain INSERT then fails.
 */
export function saveConversations(
  dialect: Dialect,
  activity: ReadonlyMap<string, Activity>,
  restarted: ReadonlyMap<string, unknown>,
): Statement[] {
  const rows = [...activity].filter(([id]) => !restarted.has(id)).sort(([a], [b]) => (a < b ? -1 : 1));
  const [unseen = [], others = []] = [true, false].map((kind) =>
    rows.filter(([, row]) => row.unseen === kind),
  );
  return [...insertConversations(others, dialect.conversationConflict), ...insertConversations(unseen, '')];
}

function insertConversations(rows: readonly (readonly [string, Activity])[], onKnown: string): Statement[] {
  if (rows.length === 0) return [];
  const bindings = rows.flatMap(([id, row]) => [id, row.owner, row.created, row.last, ...historyOf(row)]);
  const sql = `INSERT INTO conversations (id, owner, created_at, last_active, history_hash, history_open, history_reply)
     VALUES ${repeated(CONVERSATION_TUPLE, rows.length)} ${onKnown}`;
  return [{ sql, bindings }];
}

const LONG_COLUMNS = ['content', 'reasoning', 'details'].map((name) =>
  MESSAGE_COLUMNS.split(', ').indexOf(name),
);
/** Of the other columns, together. */
const ROW_CHARS = 300;

export function saveMessages(
  dialect: Dialect,
  rows: (string | number | null)[],
  packet: PacketLimit,
): Statement[] {
  const statements: Statement[] = [];
  let from = 0;
  let chars = 0;
  for (let at = 0; at < rows.length; at += MESSAGE_COLUMN_COUNT) {
    let more = ROW_CHARS;
    for (const column of LONG_COLUMNS) more += String(rows[at + column] ?? '').length;
    if (at > from && chars + more > packet.chars) {
      statements.push(insertMessages(dialect, rows.slice(from, at)));
      from = at;
      chars = 0;
    }
    chars += more;
  }
  if (rows.length > 0) statements.push(insertMessages(dialect, from === 0 ? rows : rows.slice(from)));
  return statements;
}

function insertMessages(dialect: Dialect, rows: readonly (string | number | null)[]): Statement {
  const values = repeated(MESSAGE_TUPLE, rows.length / MESSAGE_COLUMN_COUNT);
  const sql = `INSERT INTO messages (${MESSAGE_COLUMNS}) VALUES ${values} ${dialect.messageConflict}`;
  return { sql, bindings: rows };
}
