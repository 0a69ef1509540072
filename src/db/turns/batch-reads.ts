/** The rows that a batch of turns reads before it writes. */
import type { ReplyProgress, TurnStart, TurnWrite } from '../../domain/chat/turns.ts';
import { type Dialect, type LockedConversation, placeholders } from '../core/dialect.ts';
import { messageOrder } from '../core/order.ts';
import type { Statement } from '../core/packets.ts';
import type { ConversationRow, DeletionRow, MessageRow } from '../core/tables.ts';
import { conversationOf } from '../journal/codec.ts';
import type { KeyUse } from './key-claims.ts';
import type { ReplyRow } from './reply-writes.ts';

/** The units of one transaction. */
export interface WriteBatch {
  readonly turns: readonly TurnWrite[];
  readonly progress: readonly ReplyProgress[];
}

/** The existing rows that the batch needs. */
export interface Found {
  /** Locked until the transaction ends. */
  readonly conversations: readonly LockedConversation[];
  /** Also those that other sessions have locked. */
  readonly everyConversation: readonly Pick<ConversationRow, 'id'>[];
  /** Replies that may be updated, locked until the transaction ends. */
  readonly replies: readonly Pick<MessageRow, 'uid'>[];
  readonly messages: readonly ReplyRow[];
  /** Conversations with a reply that is being generated. */
  readonly busy: readonly Pick<MessageRow, 'conversation_id'>[];
  /** Replies after which the conversation has another reply. */
  readonly answered: readonly Pick<MessageRow, 'uid'>[];
  /** The settings that the turns change. */
  readonly settings: readonly Pick<ConversationRow, 'id' | 'user_id' | 'metadata'>[];
  readonly keys: readonly KeyUse[];
  readonly deletions: readonly Pick<DeletionRow, 'conversation_id' | 'deleted_at'>[];
}

/** The statements that read {@link Found}; those without ids are left out. The first one locks the conversations. */
export class Reads {
  readonly statements: Statement[] = [];
  readonly #kinds: (keyof Found)[] = [];

  constructor(dialect: Dialect, { turns, progress }: WriteBatch) {
    const conversations = concernedConversations(turns);
    const replies = updatedReplies(turns, progress);
    this.#add('conversations', conversations, (count) => dialect.lockSql(count));
    if (dialect.skipLocked !== '') {
      this.#add(
        'replies',
        replies,
        (count) => `SELECT uid FROM messages WHERE uid IN (${placeholders(count)}) ${dialect.skipLocked}`,
      );
      this.#add(
        'everyConversation',
        conversations,
        (count) => `SELECT id FROM conversations WHERE id IN (${placeholders(count)})`,
      );
    }
    this.#add(
      'messages',
      [
        ...turns.flatMap(questionOf),
        ...turns.flatMap(replacedReply),
        ...turns.flatMap(({ start, replayed }) => (start && replayed ? [start.message.uid] : [])),
        ...turns.flatMap(({ start }) => (start?.answers ? [start.answers, start.message.uid] : [])),
        ...replies,
        ...turns.flatMap(({ revision, reply }) => (revision && reply ? [reply.uid] : [])),
        ...supersededMessages(turns, progress),
      ],
      (count) =>
        `SELECT m.id, m.seq, m.epoch, m.uid, m.conversation_id, m.status, m.length, m.reasoning_length, m.worker, m.finish_reason,
           m.reply_to
         FROM messages m JOIN conversations c ON c.id = m.conversation_id AND c.epoch = m.epoch
         WHERE m.uid IN (${placeholders(count)}) AND c.deleted_at IS NULL`,
    );
    // The + excludes an index of SQLite, so that it reads the few running replies and not all messages of the
    // conversation.
    this.#add(
      'busy',
      turns.flatMap(({ start, revision, reply }) =>
        (revision || start?.answers) && reply ? [reply.conversationId] : [],
      ),
      (count) => `SELECT conversation_id FROM messages ${dialect.forceIndex('messages_worker')}
         WHERE worker IS NOT NULL AND status IN ('streaming', 'superseded')
           AND +conversation_id IN (${placeholders(count)})`,
    );
    this.#add(
      'answered',
      turns.flatMap(({ start }) => start?.answers ?? []),
      (count) => `SELECT a.uid FROM messages a WHERE a.uid IN (${placeholders(count)}) AND a.uid <> (
           SELECT m.uid FROM messages m ${dialect.forceIndex('messages_conversation')}
           WHERE m.conversation_id = a.conversation_id AND m.epoch = a.epoch
             AND m.role = 'assistant' AND m.status <> 'superseded' ${messageOrder('DESC', 'm')} LIMIT 1)`,
    );
    this.#add(
      'settings',
      turns.flatMap((unit) => {
        const changed = settingsOf(unit);
        return changed && (unit.revision || mayExist(unit)) ? [changed.conversationId] : [];
      }),
      (count) => `SELECT id, user_id, metadata FROM conversations WHERE id IN (${placeholders(count)})`,
    );
    this.#add(
      'keys',
      turns.flatMap(({ key }) => (key ? [key.id] : [])),
      (count) => `SELECT k.id, k.reply_uid, c.pinned,
           CASE WHEN k.epoch = c.epoch AND c.deleted_at IS NULL THEN c.last_active END AS last_active
         FROM idempotency_keys k JOIN conversations c ON c.id = k.conversation_id WHERE k.id IN (${placeholders(count)})`,
    );
    this.#add(
      'deletions',
      turns.flatMap(({ start, replayed }) => (start && replayed ? [start.conversationId] : [])),
      (count) => `SELECT conversation_id, MAX(deleted_at) AS deleted_at FROM deletions
         WHERE renewed = 0 AND conversation_id IN (${placeholders(count)}) GROUP BY conversation_id`,
    );
  }

  found(rows: readonly unknown[][]): Found {
    const none: Found = {
      conversations: [],
      everyConversation: [],
      replies: [],
      messages: [],
      busy: [],
      answered: [],
      settings: [],
      keys: [],
      deletions: [],
    };
    return Object.assign(none, Object.fromEntries(this.#kinds.map((kind, index) => [kind, rows[index]])));
  }

  #add(kind: keyof Found, bindings: readonly string[], sql: (count: number) => string): void {
    if (bindings.length === 0) return;
    this.#kinds.push(kind);
    this.statements.push({ sql: sql(bindings.length), bindings });
  }
}

/** Conversations that can exist already, in the order in which they are locked. */
function concernedConversations(turns: readonly TurnWrite[]): string[] {
  const ids = new Set<string>();
  for (const unit of turns) {
    const { start, reply } = unit;
    if (start && mayExist(unit)) ids.add(start.conversationId);
    else if (!start && reply) ids.add(reply.conversationId);
  }
  return [...ids].sort();
}

/** Whether the conversation can exist: the caller named it, or learned its id while the turn was in the journal. */
export function mayExist({ start, replayed }: TurnWrite): boolean {
  return start?.named === true || replayed === true;
}

/** The settings that the turn changes; undefined: none. */
export function settingsOf(unit: TurnWrite): OwnChanges | undefined {
  const { start, revision } = unit;
  const { user, metadata } = start ?? revision ?? {};
  const system = start?.system;
  const conversationId = conversationOf(unit);
  if (conversationId === undefined || (user ?? metadata ?? system) === undefined) return undefined;
  return { conversationId, user, metadata, system };
}

interface OwnChanges {
  readonly conversationId: string;
  readonly user: TurnStart['user'];
  readonly metadata: TurnStart['metadata'];
  readonly system: TurnStart['system'];
}

/** Replies that are written without their question, so that their row can exist. */
function updatedReplies(turns: readonly TurnWrite[], progress: readonly ReplyProgress[]): string[] {
  const ends = turns.flatMap(({ start, revision, reply }) =>
    !start && !revision && reply ? [reply.uid] : [],
  );
  return [...ends, ...progress.map(({ uid }) => uid)];
}

/** The question of a reply that is written without it. */
function questionOf({ start, reply }: TurnWrite): string[] {
  return !start && reply?.replyTo ? [reply.replyTo] : [];
}

/** For each reply that replaces messages, the first of these. */
function supersededMessages(turns: readonly TurnWrite[], progress: readonly ReplyProgress[]): string[] {
  const uids = turns.map(({ reply }) => reply?.details?.supersedes);
  return [...uids, ...progress.map(({ supersedes }) => supersedes)].filter((uid) => uid !== undefined);
}

function replacedReply({ key }: TurnWrite): string[] {
  return key?.replaces ? [key.replaces] : [];
}

/** The rows that exist but were not locked by this transaction, because SKIP LOCKED left them out. */
export function lockedByOthers({ turns, progress }: WriteBatch, found: Found): ReadonlySet<string> {
  const locked = new Set(found.everyConversation.map(({ id }) => id));
  for (const { id } of found.conversations) locked.delete(id);
  const stored = new Set(found.messages.map(({ uid }) => uid));
  for (const uid of updatedReplies(turns, progress)) if (stored.has(uid)) locked.add(uid);
  for (const { uid } of found.replies) locked.delete(uid);
  return locked;
}
