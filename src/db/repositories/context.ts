import { setImmediate as immediate } from 'node:timers/promises';
import type { Knex } from 'knex';
import { type Access, canAccess } from '../../domain/access/access.ts';
import { ContextTurns } from '../../domain/conversations/context.ts';
import type {
  ContentPart,
  ContextOptions,
  ConversationContext,
  HistoryMessage,
  Instant,
} from '../../domain/conversations/conversation.ts';
import { conversationNotFound } from '../../domain/errors.ts';
import { hashedPart } from '../../util/image-digest.ts';
import { toDetails, toSettings, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { select } from '../core/errors.ts';
import { FIRST, firstRange, LAST, messageOrder, positionOf } from '../core/order.ts';
import {
  type ConversationRow,
  columnsOf,
  isUnexpired,
  type MessageRow,
  SETTINGS_COLUMNS,
  type StoredSettings,
} from '../core/tables.ts';

type Head = StoredSettings & Pick<ConversationRow, 'owner' | 'pinned'>;

type Row = Pick<
  MessageRow,
  'id' | 'seq' | 'uid' | 'role' | 'content' | 'status' | 'reply_to' | 'reasoning' | 'details'
> &
  Pick<Head, 'owner'> & {
    /** Bytes of `details` that are left out; null: none. */
    details_bytes: number | null;
  };

const HEAD_COLUMNS = columnsOf('c', `owner, pinned, ${SETTINGS_COLUMNS}`);
/** Each row of the first page has the conversation too. */
const FIRST_PAGE = 32;
const MAX_PAGE = 1000;
/** Longer details of questions, which are images, are read only for the messages of the context. */
const LONG_DETAILS = 64 * 1024;
/** Of the images of a context, as base64: an older exchange with more is left out. */
const MAX_IMAGE_BYTES = 64 * 1024 * 1024;

/** Reads what a turn gets from its conversation. */
export class ContextReader {
  readonly #knex: Knex;
  readonly #dialect: Dialect;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
  }

  /**
   * Reads back from the newest message and pairs here: nearly always one short index scan, where a join of questions
   * and replies would need one more index on the hottest table.
   */
  async read(
    id: string,
    access: Access,
    limit: number,
    activeSince: Instant,
    options: ContextOptions = {},
  ): Promise<ConversationContext> {
    const turns = new ContextTurns(limit, options);
    const long = new Map<string, LongDetails>();
    let page = Math.min(Math.max(limit, 1), FIRST_PAGE);
    const until = options.before === undefined ? LAST : options.before - 1;
    const first = await this.#newestFirst<Row & Head>(id, page, until, activeSince, HEAD_COLUMNS);
    const known: (Head & { expired?: number }) | undefined = first[0] ?? (await this.#head(id, activeSince));
    const head = known?.expired === 1 ? undefined : known;
    for (let rows: readonly Row[] = first; ; ) {
      const conversation = rows[0] ?? known;
      if (conversation && !canAccess(access, conversation.owner)) throw conversationNotFound();
      for (const row of rows) {
        if (row.details_bytes !== null) long.set(row.uid, { id: row.id, bytes: row.details_bytes });
        turns.addOlder({ ...row, replyTo: row.reply_to, details: toDetails(row.details) });
      }
      const oldest = rows.at(-1);
      if (!oldest || rows.length < page || turns.full) break;
      page = Math.min(2 * page, MAX_PAGE);
      rows = await this.#newestFirst(id, page, positionOf(oldest) - 1, activeSince, 'c.owner');
    }
    const messages = turns.context();
    return {
      settings: head ? toSettings(head) : null,
      pinned: head?.pinned === 1,
      messages: long.size === 0 ? messages : await this.#withLongDetails(messages, long),
      ...turns.state,
    };
  }

  #newestFirst<Read extends Row>(
    id: string,
    limit: number,
    until: number,
    activeSince: Instant,
    columns: string,
  ): Promise<Read[]> {
    const isLong = `m.role = 'user' AND OCTET_LENGTH(m.details) > ${LONG_DETAILS}`;
    const { sql, bindings } = firstRange(FIRST, until, 'm');
    // With the epoch of a join MySQL and MariaDB would sort all messages.
    return select(
      this.#knex,
      `SELECT m.id, m.seq, m.uid, m.role, m.content, m.status, m.reply_to,
         CASE WHEN m.details IS NOT NULL THEN m.reasoning END AS reasoning,
         CASE WHEN ${isLong} THEN NULL ELSE m.details END AS details,
         CASE WHEN ${isLong} THEN OCTET_LENGTH(m.details) END AS details_bytes, ${columns}
       FROM messages m ${this.#dialect.forceIndex('messages_conversation')}
         JOIN conversations c ON c.id = m.conversation_id
       WHERE m.conversation_id = ? AND m.epoch = (SELECT epoch FROM conversations WHERE id = ?) ${sql}
         AND m.status <> 'superseded' AND c.deleted_at IS NULL AND ${isUnexpired('c')}
       ${messageOrder('DESC', 'm')} LIMIT ?`,
      [id, id, ...bindings, toTime(activeSince), limit],
    );
  }

  /** Of a conversation without messages, or of an expired one, which keeps its owner until it is purged. */
  async #head(id: string, activeSince: Instant): Promise<(Head & { expired: number }) | undefined> {
    const [head] = await select<Head & { expired: number }>(
      this.#knex,
      `SELECT ${HEAD_COLUMNS}, CASE WHEN ${isUnexpired('c')} THEN 0 ELSE 1 END AS expired
       FROM conversations c WHERE c.id = ? AND c.deleted_at IS NULL`,
      [toTime(activeSince), id],
    );
    return head;
  }

  /** Without the oldest exchanges whose images are too many. */
  async #withLongDetails(
    messages: readonly HistoryMessage[],
    long: ReadonlyMap<string, LongDetails>,
  ): Promise<readonly HistoryMessage[]> {
    let left = MAX_IMAGE_BYTES;
    const tooMany = messages.findLastIndex(({ uid }) => {
      left -= long.get(uid)?.bytes ?? 0;
      return left < 0;
    });
    const next = messages.findIndex(({ role }, at) => at > tooMany && role === 'user');
    // The newest one stays: it can be the one that is being answered.
    const taken = tooMany < 0 ? messages : messages.slice(next < 0 ? tooMany : next);
    const ids = taken.flatMap(({ uid }) => long.get(uid)?.id ?? []);
    if (ids.length === 0) return taken;
    const rows = await select<Pick<MessageRow, 'uid' | 'details'>>(
      this.#knex,
      `SELECT uid, details FROM messages WHERE id IN (${placeholders(ids.length)})`,
      ids,
    );
    const parts = new Map<string, readonly ContentPart[] | undefined>();
    for (const { uid, details } of rows) {
      const own = toDetails(details)?.parts;
      parts.set(uid, own);
      for (const part of own ?? []) {
        await immediate();
        hashedPart(part);
      }
    }
    return taken.map((message) => {
      const own = parts.get(message.uid);
      return own ? { ...message, parts: own } : message;
    });
  }
}

interface LongDetails {
  readonly id: number;
  readonly bytes: number;
}
