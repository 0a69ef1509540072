/**
 * Rows as the drivers return them: times are UTC text `YYYY-MM-DD HH:mm:ss.SSS`; `usage`, `details`, `metadata` and
 * `parameters` are JSON text.
 */

export interface ConversationRow {
  id: string;
  owner: string | null;
  created_at: string;
  last_active: string;
  /** Messages and idempotency keys of an earlier epoch are invisible. */
  epoch: number;
  /** Not null: invisible, and its rows are being removed. */
  deleted_at: string | null;
  pinned: number;
  /** Null: the first line of its first question. */
  title: string | null;
  /** The caller's end user. */
  user_id: string | null;
  metadata: string | null;
  system_prompt: string | null;
  default_model: string | null;
  parameters: string | null;
  /** Of the visible messages; null: not known, or a reply is being generated. */
  history_hash: string | null;
  /** Up to the question whose reply is being generated. */
  history_open: string | null;
  /** The uid of the newest turn's reply. */
  history_reply: string | null;
  /** The greatest `seq` of its messages, also of those of earlier epochs. */
  last_seq: number;
}

export type HistoryColumns = Pick<ConversationRow, 'history_hash' | 'history_open' | 'history_reply'>;

export interface MessageRow {
  id: number;
  uid: string;
  conversation_id: string;
  role: string;
  content: string;
  timestamp: string;
  status: string;
  reply_to: string | null;
  model: string | null;
  finish_reason: string | null;
  usage: string | null;
  updated_at: string;
  length: number | null;
  worker: string | null;
  format: string | null;
  epoch: number;
  /** Its number in the conversation, see `order.ts`. */
  seq: number;
  reasoning: string | null;
  reasoning_length: number | null;
  details: string | null;
  /** `up` or `down`. */
  rating: string | null;
  rating_comment: string | null;
}

/** A deleted or purged conversation. */
export interface DeletionRow {
  id: number;
  conversation_id: string;
  owner: string | null;
  deleted_at: string;
  renewed: number;
  /** 1 until the rows of the conversation are removed; 2: see `unfinished.ts`. */
  pending: number;
}

/** `request`, `scope`, `checkpoint` and `manifest` are JSON text. */
export interface ExportJobRow {
  id: string;
  owner: string | null;
  status: string;
  request: string;
  scope: string | null;
  checkpoint: string | null;
  manifest: string | null;
  error: string | null;
  notify_at: string | null;
  notify_left: string;
  notify_tries: number;
  worker: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

export interface IdempotencyKeyRow {
  id: string;
  body_hash: string;
  conversation_id: string;
  question_uid: string;
  reply_uid: string;
  cached: number;
  created_at: string;
  epoch: number;
}

/** `scopes` are words with commas between; `hash` is SHA-256 in hexadecimal. */
export interface ApiKeyRow {
  id: string;
  prefix: string;
  hash: string;
  owner: string;
  scopes: string;
  request_limit: number | null;
  stream_limit: number | null;
  created_at: string;
  expires_at: string | null;
  last_used_at: string | null;
  revoked_at: string | null;
}

export interface CounterRow {
  id: string;
  points: number;
  /** Epoch seconds. */
  ends_at: number;
}

declare module 'knex/types/tables.js' {
  interface Tables {
    api_keys: ApiKeyRow;
    rate_limits: CounterRow;
    conversations: ConversationRow;
    messages: MessageRow;
    deletions: DeletionRow;
    export_jobs: ExportJobRow;
    secrets: { name: string; value: string; created_at: string };
  }
}

/** A conversation that is visible. */
export type StoredConversation = Pick<
  ConversationRow,
  'id' | 'owner' | 'created_at' | 'last_active' | 'pinned'
>;

/** A message without the columns of the writer. */
export type StoredMessage = Omit<
  MessageRow,
  'updated_at' | 'length' | 'reasoning_length' | 'worker' | 'epoch' | 'rating' | 'rating_comment'
>;

export const CONVERSATION_COLUMNS = 'id, owner, created_at, last_active, pinned';

/** What callers have set. */
export type StoredSettings = Pick<
  ConversationRow,
  'title' | 'user_id' | 'metadata' | 'system_prompt' | 'default_model' | 'parameters'
>;

export const SETTINGS_COLUMNS = 'title, user_id, metadata, system_prompt, default_model, parameters';

/** As {@link Retention.isExpired}, reversed; the binding is the time since which a conversation must have been active. */
export function isUnexpired(table: string): string {
  return `(${table}.pinned = 1 OR ${table}.last_active >= ?)`;
}

/** Column names such as SETTINGS_COLUMNS, each with its table or alias. */
export function columnsOf(table: string, columns: string): string {
  return columns
    .split(', ')
    .map((column) => `${table}.${column}`)
    .join(', ');
}

/** `usage` is a keyword of MySQL; both databases accept backticks. */
export const MESSAGE_COLUMNS =
  'id, seq, uid, conversation_id, role, content, timestamp, status, reply_to, model, finish_reason, `usage`, format, reasoning, details';
