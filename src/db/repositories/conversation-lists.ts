import type { Knex } from 'knex';
import type { Access } from '../../domain/access/access.ts';
import type {
  ConversationCursor,
  ConversationFilter,
  ConversationHead,
  ConversationOutline,
  Instant,
} from '../../domain/conversations/conversation.ts';
import { defaultTitle, EXCERPT_CHARS, preview } from '../../domain/conversations/title.ts';
import { fromTime, toConversation, toRole, toSettings, toStatus, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { select } from '../core/errors.ts';
import { type Condition, messageOrder } from '../core/order.ts';
import {
  CONVERSATION_COLUMNS,
  type ConversationRow,
  columnsOf,
  isUnexpired,
  type MessageRow,
  SETTINGS_COLUMNS,
  type StoredConversation,
  type StoredSettings,
} from '../core/tables.ts';

/** Where a list without a cursor begins; ids are hexadecimal, so every one of them sorts before g. */
const LAST_TIME = toTime(Number.POSITIVE_INFINITY);
const AFTER_EVERY_ID = 'g';
/** Conversations, and bytes of their settings, that one statement reads. */
const OUTLINES = 50;
const OUTLINE_BYTES = 1024 * 1024;

const HEAD_COLUMNS = `${CONVERSATION_COLUMNS}, epoch, title,
  COALESCE(OCTET_LENGTH(system_prompt), 0) + COALESCE(OCTET_LENGTH(parameters), 0) AS size`;

type HeadRow = StoredConversation & Pick<ConversationRow, 'epoch' | 'title'> & { readonly size: number };

type OutlineRow = StoredSettings &
  Pick<ConversationRow, 'id'> & {
    [Name in keyof Pick<MessageRow, 'uid' | 'role' | 'status' | 'timestamp'>]: MessageRow[Name] | null;
  } & {
    readonly excerpt: string | null;
    readonly opening: string | null;
  };

/** Lists conversations, newest activity first. */
export class ConversationLists {
  readonly #knex: Knex;
  readonly #dialect: Dialect;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
  }

  /**
   * Pinned conversations that would be expired come last, from the index of pinned ones: expired ones can be many. One
   * user's conversations and the pinned ones are few, so these are sorted.
   */
  async heads(
    access: Access,
    limit: number,
    before: ConversationCursor | null,
    activeSince: Instant,
    { user, pinned }: ConversationFilter,
  ): Promise<ConversationHead[]> {
    const since = [toTime(activeSince)];
    const all = conditionsOf(access, before);
    if (pinned !== undefined) all.push({ sql: `pinned = ${pinned ? 1 : 0}`, bindings: [] });
    if (user !== undefined) {
      all.push({ sql: 'user_id = ?', bindings: [user] });
      all.push({ sql: isUnexpired('conversations'), bindings: since });
      return this.#heads(all, limit, 'conversations_user');
    }
    if (pinned) return this.#heads(all, limit, 'conversations_pinned');
    const index = access.unrestricted ? 'conversations_last_active' : 'conversations_owner_last_active';
    const active = [...all, { sql: 'last_active >= ?', bindings: since }];
    const heads = await this.#heads(active, limit, index);
    if (heads.length === limit || activeSince <= 0 || pinned === false) return heads;
    const idle = [...all, { sql: 'pinned = 1 AND last_active < ?', bindings: since }];
    return [...heads, ...(await this.#heads(idle, limit - heads.length, 'conversations_pinned'))];
  }

  /** Of the conversations that still exist, in several statements. */
  async outlines(heads: readonly ConversationHead[]): Promise<Map<string, ConversationOutline>> {
    const outlines = new Map<string, ConversationOutline>();
    for (let from = 0; from < heads.length; ) {
      const ids: string[] = [];
      let bytes = 0;
      for (const { id, size } of heads.slice(from, from + OUTLINES)) {
        bytes += size;
        if (ids.length > 0 && bytes > OUTLINE_BYTES) break;
        ids.push(id);
      }
      for (const row of await this.#outlines(ids)) outlines.set(row.id, toOutline(row));
      from += ids.length;
    }
    return outlines;
  }

  /** The newest and the oldest visible message are each the first row of an index scan, but for superseded ones. */
  #outlines(ids: readonly string[]): Promise<OutlineRow[]> {
    const one = (where: string, direction: 'ASC' | 'DESC') =>
      `(SELECT m.id FROM messages m ${this.#dialect.forceIndex('messages_conversation')}
        WHERE m.conversation_id = c.id AND m.epoch = c.epoch AND m.status <> 'superseded' ${where}
        ${messageOrder(direction, 'm')} LIMIT 1)`;
    return select(
      this.#knex,
      `SELECT c.id, ${columnsOf('c', SETTINGS_COLUMNS)}, l.uid, l.role, l.status, l.timestamp,
         SUBSTR(l.content, 1, ${EXCERPT_CHARS}) AS excerpt,
         CASE WHEN c.title IS NULL THEN SUBSTR(f.content, 1, ${EXCERPT_CHARS}) END AS opening
       FROM conversations c
       LEFT JOIN messages l ON l.id = ${one('', 'DESC')}
       LEFT JOIN messages f ON f.id = ${one(`AND m.role = 'user'`, 'ASC')}
       WHERE c.id IN (${placeholders(ids.length)})`,
      ids,
    );
  }

  async #heads(all: readonly Condition[], limit: number, index: string): Promise<ConversationHead[]> {
    const rows = await select<HeadRow>(
      this.#knex,
      `SELECT ${HEAD_COLUMNS} FROM conversations ${this.#dialect.forceIndex(index)}
       WHERE ${all.map(({ sql }) => sql).join(' AND ')} ORDER BY last_active DESC, id DESC LIMIT ?`,
      [...all.flatMap(({ bindings }) => bindings), limit],
    );
    return rows.map((row) => {
      const { epoch, title, size } = row;
      return { ...toConversation(row), epoch, title, size };
    });
  }
}

/** The conditions of every list. */
function conditionsOf(access: Access, before: ConversationCursor | null): Condition[] {
  const until = before ? toTime(before.lastActive) : LAST_TIME;
  const position = 'last_active <= ? AND (last_active < ? OR id < ?)';
  return [
    { sql: 'deleted_at IS NULL', bindings: [] },
    { sql: position, bindings: [until, until, before?.id ?? AFTER_EVERY_ID] },
    ...(access.unrestricted ? [] : [{ sql: 'owner = ?', bindings: [access.owner ?? ''] }]),
  ];
}

function toOutline(row: OutlineRow): ConversationOutline {
  const { uid, role, status, timestamp, excerpt, opening } = row;
  const settings = toSettings(row);
  const title = settings.title ?? (opening === null ? null : defaultTitle(opening));
  if (uid === null || role === null || status === null || timestamp === null) {
    return { settings, title, lastMessage: null };
  }
  return {
    settings,
    title,
    lastMessage: {
      uid,
      role: toRole(role),
      // Only a question of images has no text.
      preview: excerpt === '' && role === 'user' ? '[image]' : preview(excerpt ?? ''),
      timestamp: fromTime(timestamp),
      status: toStatus(status),
    },
  };
}
