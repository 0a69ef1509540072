/** The statements that write the conversations, their settings and the new messages of a batch of turns. */
import { MAX_METADATA, type TurnWrite, type WriteOutcome } from '../../domain/chat/turns.ts';
import { MESSAGE_INSERT_COLUMNS } from '../core/codec.ts';
import { type Dialect, placeholders, repeated } from '../core/dialect.ts';
import type { PacketLimit, Statement } from '../core/packets.ts';
import { type HistoryColumns, SETTINGS_COLUMNS } from '../core/tables.ts';
import { TEXT_COLUMNS } from '../core/texts.ts';
import { type Found, settingsOf } from './batch-reads.ts';

export interface Activity {
  readonly created: string;
  last: string;
  readonly owner: string | null;
  /** Whether it was not found although its id is not new, so that another process may create it at the same time. */
  readonly unseen: boolean;
  history: HistoryColumns;
  /** The `seq` of its newest message. */
  lastSeq: number;
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

/**
 * Starts deleted or expired conversations again, without settings. The new epoch keeps their earlier messages
 * invisible.
 */
export function restart(
  restarts: ReadonlyMap<string, number>,
  activity: ReadonlyMap<string, Activity>,
): Statement[] {
  const unset = SETTINGS_COLUMNS.split(', ').map((column) => `${column} = NULL`);
  const sql = `UPDATE conversations SET owner = ?, created_at = ?, last_active = ?, epoch = ?, deleted_at = NULL,
     pinned = 0, last_seq = ?, history_hash = ?, history_open = ?, history_reply = ?, ${unset.join(', ')} WHERE id = ?`;
  return [...restarts].flatMap(([id, epoch]) => {
    const row = activity.get(id);
    if (!row) return [];
    return { sql, bindings: [row.owner, row.created, row.last, epoch, row.lastSeq, ...historyOf(row), id] };
  });
}

function historyOf({ history }: Activity): (string | null)[] {
  return [history.history_hash, history.history_open, history.history_reply];
}

const CONVERSATION_COLUMNS =
  'id, owner, created_at, last_active, last_seq, history_hash, history_open, history_reply';
const CONVERSATION_TUPLE = `(${placeholders(CONVERSATION_COLUMNS.split(',').length)})`;
const MESSAGE_COLUMNS = `${MESSAGE_INSERT_COLUMNS}, epoch, seq`;
const MESSAGE_COLUMN_COUNT = MESSAGE_COLUMNS.split(',').length;
const MESSAGE_TUPLE = `(${placeholders(MESSAGE_COLUMN_COUNT)})`;

/**
 * Inserts new conversations, and updates activity, history and last `seq` of existing ones. Restarted ones were updated
 * by {@link restart}. For an unseen one the INSERT must fail if it exists, because another process may have created it
 * for another owner.
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
  const bindings = rows.flatMap(([id, row]) => {
    return [id, row.owner, row.created, row.last, row.lastSeq, ...historyOf(row)];
  });
  const sql = `INSERT INTO conversations (${CONVERSATION_COLUMNS})
     VALUES ${repeated(CONVERSATION_TUPLE, rows.length)} ${onKnown}`;
  return [{ sql, bindings }];
}

/** The settings of a conversation that a turn can change. */
interface OwnSettings {
  readonly user: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
}

const NO_SETTINGS: OwnSettings = { user: null, metadata: null };

/** The settings of a batch's conversations, updated by each of its turns in order. */
export class BatchSettings {
  readonly #known = new Map<string, OwnSettings>();

  /** @param rows of the conversations that exist and are not restarted */
  constructor(rows: Found['settings']) {
    for (const { id, user_id, metadata } of rows) {
      this.#known.set(id, { user: user_id, metadata: metadata === null ? null : JSON.parse(metadata) });
    }
  }

  /** Whether the conversation exists and has no end user. */
  hasNoUser(conversationId: string): boolean {
    return this.#known.get(conversationId)?.user === null;
  }

  /**
   * The outcome if the turn's settings are refused; undefined if they can be saved. A turn from the journal is never
   * refused.
   */
  refusal(unit: TurnWrite): WriteOutcome | undefined {
    const changed = settingsOf(unit);
    if (!changed || unit.replayed) return undefined;
    const { conversationId, user, metadata } = changed;
    const own = this.#known.get(conversationId) ?? NO_SETTINGS;
    if (user !== undefined && own.user !== null && own.user !== user) return 'other_user';
    return Object.keys({ ...own.metadata, ...metadata }).length > MAX_METADATA ? 'metadata_full' : undefined;
  }

  save(unit: TurnWrite): Statement[] {
    const changed = settingsOf(unit);
    if (!changed) return [];
    const { conversationId, user = null, metadata, system } = changed;
    const known = this.#known.get(conversationId) ?? NO_SETTINGS;
    const members = Object.entries({ ...known.metadata, ...metadata }).slice(0, MAX_METADATA);
    const own = {
      user: known.user ?? user,
      metadata: members.length === 0 ? null : Object.fromEntries(members),
    };
    this.#known.set(conversationId, own);
    const sql = 'UPDATE conversations SET user_id = ?, metadata = ? WHERE id = ?';
    const json = own.metadata && JSON.stringify(own.metadata);
    const statement = { sql, bindings: [own.user, json, conversationId] };
    if (system === undefined) return [statement];
    const prompt = 'UPDATE conversations SET system_prompt = ? WHERE id = ?';
    return [{ sql: prompt, bindings: [system, conversationId] }, statement];
  }
}

const LONG_COLUMNS = TEXT_COLUMNS.map((name) => MESSAGE_COLUMNS.split(', ').indexOf(name));
/** The length of all other columns of a row. */
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
