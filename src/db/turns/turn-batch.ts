import type { Knex } from 'knex';
import { canAccess } from '../../domain/access/access.ts';
import type {
  ProgressOutcome,
  Revision,
  TurnStart,
  TurnWrite,
  WriteOutcome,
} from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import { fromMessage, toTime } from '../core/codec.ts';
import type { Dialect, LockedConversation } from '../core/dialect.ts';
import type { PacketLimit, Statement } from '../core/packets.ts';
import type { HistoryColumns } from '../core/tables.ts';
import { conversationOf } from '../journal/codec.ts';
import {
  type Activity,
  BatchSettings,
  hideExpired,
  restart,
  saveConversations,
  saveMessages,
} from './batch-inserts.ts';
import { type Found, lockedByOthers, mayExist, Reads, type WriteBatch } from './batch-reads.ts';
import { newHistory, UNKNOWN_HISTORY, withEnd, withStart } from './history-chain.ts';
import { claimKey, isConflict, type KeyUse } from './key-claims.ts';
import { endReply, extendReply, isEmptyFailure, type ReplyRow } from './reply-writes.ts';
import { appendDetails, appendRest, firstPart, isTooLong, REASONING, storable } from './text-parts.ts';

/** Each attempt can fail because of one key that another process has claimed; a batch has several keys. */
const CLAIM_RETRIES = 3;
/**
 * Limit of the checkpoints in a batch: after an outage many replies have much new text, which must fit into one packet.
 */
const PROGRESS_CHARS = 1_000_000;

export interface BatchOutcomes {
  readonly turns: (WriteOutcome | typeof LOCKED)[];
  readonly progress: (ProgressOutcome | typeof LOCKED)[];
}

/** Nothing was written for the unit, because another session has locked one of its rows or the batch is full. */
export const LOCKED = Symbol('locked');

/**
 * Writes the batch in one transaction, with one INSERT per table. Uses plain SQL, because here Knex's builder takes
 * more time than all other work. Conversations are locked and written in the order of their ids, so that processes do
 * not deadlock. Messages are numbered in the order of the units, which is their order in the conversation.
 * @throws the driver's error
 */
export async function writeBatch(knex: Knex, dialect: Dialect, batch: WriteBatch): Promise<BatchOutcomes> {
  const reads = new Reads(dialect, batch);
  const plan = (rows: readonly unknown[][], packet: PacketLimit) =>
    new Plan(dialect, batch, reads.found(rows), packet).make();
  for (let attempt = 0; ; attempt++) {
    try {
      return await dialect.batch(knex, reads.statements, plan);
    } catch (error) {
      // Another process has claimed the same key or created the same conversation. It has committed, so the retry
      // finds its row.
      if (attempt === CLAIM_RETRIES || !isConflict(error)) throw error;
    }
  }
}

/** Decides from the existing rows which statements are executed. */
class Plan {
  readonly #dialect: Dialect;
  readonly #batch: WriteBatch;
  readonly #packet: PacketLimit;
  /** The newest `seq` of every conversation that exists, visible or not. */
  readonly #lastSeqs: ReadonlyMap<string, number>;
  /** The visible conversations. */
  readonly #conversations: ReadonlyMap<string, LockedConversation>;
  /** Deleted or expired conversations, which start again with a turn: id → the epoch of their new messages. */
  readonly #restarts = new Map<string, number>();
  readonly #messages: Map<string, ReplyRow>;
  /** Conversations with a reply that is being generated. */
  readonly #busy: Set<string>;
  /** Replies after which the conversation has another reply. */
  readonly #answered: Set<string>;
  readonly #settings: BatchSettings;
  readonly #keys: Map<string, KeyUse>;
  readonly #deletions: Map<string, string>;
  /** Ids of conversations and replies that other sessions have locked. */
  readonly #locked: ReadonlySet<string>;
  /** Expired conversations that start again: id → cutoff of their last activity. */
  readonly #expired: ReadonlyMap<string, string>;
  readonly #activity = new Map<string, Activity>();
  /**
   * The time of the write. Incremental exports need it instead of the time of the turn, which may come from the
   * journal.
   */
  readonly #written = toTime(Date.now());
  readonly #inserts: (string | number | null)[] = [];
  readonly #updates: Statement[] = [];

  constructor(dialect: Dialect, batch: WriteBatch, found: Found, packet: PacketLimit) {
    this.#dialect = dialect;
    this.#packet = packet;
    this.#batch = batch;
    this.#lastSeqs = new Map(found.conversations.map((row) => [row.id, row.last_seq]));
    const visible = found.conversations.filter((row) => row.deleted_at === null);
    this.#conversations = new Map(visible.map((row) => [row.id, row]));
    this.#expired = expiredConversations(batch.turns, this.#conversations);
    for (const { id, deleted_at, epoch } of found.conversations) {
      if (deleted_at !== null) this.#restarts.set(id, epoch);
      else if (this.#expired.has(id)) this.#restarts.set(id, epoch + 1);
    }
    this.#messages = new Map(found.messages.map((row) => [row.uid, row]));
    for (const [uid, { conversation_id }] of this.#messages) {
      if (this.#expired.has(conversation_id)) this.#messages.delete(uid);
    }
    this.#busy = new Set(found.busy.map((row) => row.conversation_id));
    this.#answered = new Set(found.answered.map(({ uid }) => uid));
    this.#settings = new BatchSettings(
      found.settings.filter(({ id }) => this.#conversations.has(id) && !this.#restarts.has(id)),
    );
    this.#keys = new Map(found.keys.map((row) => [row.id, row]));
    this.#locked = dialect.skipLocked === '' ? new Set() : lockedByOthers(batch, found);
    this.#deletions = new Map(found.deletions.map((row) => [row.conversation_id, row.deleted_at]));
  }

  make(): { writes: Statement[]; result: BatchOutcomes } {
    const turns = this.#batch.turns.map((unit) => (this.#isLocked(unit) ? LOCKED : this.#turn(unit)));
    let progressChars = 0;
    const progress = this.#batch.progress.map((reply) => {
      if (this.#locked.has(reply.uid)) return LOCKED;
      // The packet is full; the next checkpoint writes this text.
      if (progressChars > PROGRESS_CHARS) return LOCKED;
      const known = this.#messages.get(reply.uid);
      const from = this.#messages.get(reply.supersedes ?? '');
      const { outcome, statements } = extendReply(reply, known, this.#written, this.#packet, from);
      this.#updates.push(...statements);
      for (const { bindings } of statements) progressChars += String(bindings[0]).length;
      return outcome;
    });
    const writes = [
      ...hideExpired(this.#expired, this.#written),
      ...restart(this.#restarts, this.#activity),
      ...saveConversations(this.#dialect, this.#activity, this.#restarts),
      ...saveMessages(this.#dialect, this.#inserts, this.#packet),
      ...this.#updates,
    ];
    return { writes, result: { turns, progress } };
  }

  #isLocked(unit: TurnWrite): boolean {
    if (this.#locked.size === 0) return false;
    return this.#locked.has(conversationOf(unit) ?? '') || this.#locked.has(unit.reply?.uid ?? '');
  }

  #turn(unit: TurnWrite): WriteOutcome {
    const { start, revision, reply, key } = unit;
    if (revision && reply) return this.#revise(unit, revision, reply);
    if (start && this.#deletedSince(unit)) return 'gone';
    if (start && this.#isForeign(start)) return 'foreign';
    if (this.#hasMoved(unit)) return 'moved';
    const impossible = start && (this.#unanswerable(unit, start) ?? this.#settings.refusal(unit));
    if (impossible) return impossible;
    const question = reply?.replyTo ? this.#messages.get(reply.replyTo) : undefined;
    if (!start && reply && question?.conversation_id !== reply.conversationId) return 'gone';
    if (!start && question?.status === 'superseded' && reply?.status === 'streaming') return 'superseded';
    if (key && !this.#claim(unit)) return 'taken';
    const isRepeated = start !== undefined && this.#messages.has(start.message.uid);
    if (start) {
      for (const message of [...(start.earlier ?? []), start.message]) this.#insert(message, unit);
      this.#updates.push(...this.#settings.save(unit));
      if (start.answers !== undefined) this.#answered.add(start.answers);
      if (!isRepeated) this.#chainStart(start, reply);
    }
    if (!reply) return 'saved';
    const known = start ? undefined : this.#messages.get(reply.uid);
    if (!known) {
      if (isEmptyFailure(reply)) {
        this.#chainEnd(reply);
        return 'saved';
      }
      // Its worker has stored the row, so its absence means that a request with the same key replaced the reply.
      if (reply.status !== 'streaming' && unit.worker !== undefined && !start) return 'replaced';
      this.#insert(reply, unit);
      if (reply.status !== 'streaming' && !isRepeated) this.#chainEnd(reply);
      else if (!start) this.#chain(reply.conversationId, (history) => this.#askedAgain(history, unit, reply));
      return 'saved';
    }
    if (reply.status === 'streaming') return 'saved';
    const time = toTime(unit.activeAt ?? reply.timestamp);
    this.#touch(reply.conversationId, time);
    const end = storable(reply, this.#packet);
    const from = this.#messages.get(reply.details?.supersedes ?? '');
    const { outcome, statements } = endReply(end, known, this.#written, this.#packet, from);
    this.#updates.push(...statements);
    // A pending reply changes the history only when it becomes visible.
    if (statements.length > 0 && known.status !== 'superseded') this.#chainEnd(reply);
    return outcome;
  }

  /**
   * The history hash for another reply to a stored question. `expects` proves that the history ends with this question.
   */
  #askedAgain(history: HistoryColumns, { expects }: TurnWrite, { uid }: Message): HistoryColumns {
    return expects === undefined ? UNKNOWN_HISTORY : withStart(history, [], uid);
  }

  #chainStart({ conversationId, earlier = [], message }: TurnStart, reply: Message | undefined): void {
    const uid = reply?.uid ?? null;
    this.#chain(conversationId, (history) => withStart(history, [...earlier, message], uid));
  }

  #chainEnd(reply: Message): void {
    this.#chain(reply.conversationId, (history) => withEnd(history, reply));
  }

  /** Every write has added the activity of its conversation; without one nothing is written, so no history changes. */
  #chain(conversationId: string, change: (history: HistoryColumns) => HistoryColumns): void {
    const activity = this.#activity.get(conversationId);
    if (activity) activity.history = change(activity.history);
  }

  /** Whether another turn has changed the history since it was read, or the conversation was deleted. */
  #hasMoved(unit: TurnWrite): boolean {
    const { reply, expects, replayed } = unit;
    const id = conversationOf(unit);
    if (expects === undefined || replayed || id === undefined) return false;
    const history = this.#activity.get(id)?.history ?? this.#conversations.get(id);
    if (!history || this.#restarts.has(id)) return true;
    return history.history_hash !== expects && history.history_reply !== reply?.uid;
  }

  /**
   * Stores the start of a revision. The conversation is locked, so a second revision finds the reply of the first one.
   */
  #revise(unit: TurnWrite, { by, expiredBefore, message }: Revision, reply: Message): WriteOutcome {
    const { uid, conversationId, details } = reply;
    if (this.#messages.has(uid)) return 'saved';
    const conversation = this.#conversations.get(conversationId);
    if (!conversation || !canAccess(by, conversation.owner)) return 'gone';
    if (conversation.pinned === 0 && conversation.last_active < toTime(expiredBefore)) return 'gone';
    const from = this.#messages.get(details?.supersedes ?? '');
    if (from?.conversation_id !== conversationId) return 'missing';
    if (from.status === 'superseded') return 'superseded';
    if (this.#busy.has(conversationId)) return 'busy';
    const impossible = this.#settings.refusal(unit);
    if (impossible) return impossible;
    if (unit.key && !this.#claim(unit)) return 'taken';
    if (message) this.#insert({ ...message, status: 'superseded' }, unit);
    this.#insert({ ...reply, status: 'superseded' }, unit);
    this.#updates.push(...this.#settings.save(unit));
    this.#busy.add(conversationId);
    return 'saved';
  }

  /**
   * The outcome if tool results cannot be stored: the reply with the calls is missing, or the conversation has a later
   * reply.
   */
  #unanswerable(
    { replayed }: TurnWrite,
    { answers, conversationId, message }: TurnStart,
  ): WriteOutcome | undefined {
    if (answers === undefined || this.#messages.has(message.uid)) return undefined;
    const asked = this.#messages.get(answers);
    if (asked?.conversation_id !== conversationId || asked.status === 'superseded') return 'gone';
    if (replayed) return undefined;
    if (this.#busy.has(conversationId)) return 'busy';
    return this.#answered.has(answers) ? 'answered' : undefined;
  }

  /** Conversations created earlier in the same batch count too. */
  #isForeign({ conversationId, by }: TurnStart): boolean {
    const known = this.#activity.get(conversationId) ?? this.#conversations.get(conversationId);
    return known !== undefined && !canAccess(by, known.owner);
  }

  #deletedSince({ start, replayed }: TurnWrite): boolean {
    const deletedAt = replayed && start ? this.#deletions.get(start.conversationId) : undefined;
    return deletedAt !== undefined && start !== undefined && deletedAt >= toTime(start.message.timestamp);
  }

  #claim({ start, reply, key }: TurnWrite): boolean {
    const questionId = start?.message.uid ?? reply?.replyTo;
    if (!key || !reply || !questionId) return false;
    const statements = claimKey(
      key,
      this.#keys.get(key.id),
      questionId,
      reply,
      this.#epochOf(reply.conversationId),
      key.replaces === null ? undefined : this.#messages.get(key.replaces),
    );
    if (!statements) return false;
    this.#updates.push(...statements);
    if (key.replaces !== null) this.#messages.delete(key.replaces);
    this.#keys.set(key.id, {
      id: key.id,
      reply_uid: reply.uid,
      last_active: toTime(reply.timestamp),
      pinned: 0,
    });
    return true;
  }

  /** @throws AppError `body_too_large` for a question longer than `max_allowed_packet` */
  #insert(whole: Message, unit: TurnWrite): void {
    if (whole.role !== 'assistant' && isTooLong(whole.content, this.#packet)) throw messageTooLong();
    const message = storable(whole, this.#packet);
    const { worker = null, activeAt, revision } = unit;
    const time = toTime(message.timestamp);
    const seq = ++this.#touch(message.conversationId, time, unit).lastSeq;
    if (activeAt !== undefined) this.#touch(message.conversationId, toTime(activeAt));
    const { uid, conversationId, status, content, reasoning } = message;
    const first = firstPart(content, this.#packet);
    const firstReasoning = reasoning && firstPart(reasoning, this.#packet);
    const row = fromMessage(
      first === content && firstReasoning === reasoning
        ? message
        : { ...message, content: first, reasoning: firstReasoning },
      time,
      this.#written,
      status === 'streaming' || (revision && message.role === 'assistant') ? worker : null,
    );
    if (message.details) this.#cutDetails(uid, row);
    const epoch = this.#epochOf(conversationId);
    this.#inserts.push(...row, epoch, seq);
    this.#updates.push(...appendRest(uid, content, first.length, 0, this.#packet));
    if (reasoning && firstReasoning)
      this.#updates.push(...appendRest(uid, reasoning, firstReasoning.length, 0, this.#packet, REASONING));
    if (status === 'streaming') this.#busy.add(conversationId);
    // The INSERT does not change a row that exists.
    const known = this.#messages.get(uid);
    this.#messages.set(uid, {
      id: known?.id ?? 0,
      seq: known?.seq ?? seq,
      epoch,
      uid,
      conversation_id: conversationId,
      status,
      length: content.length,
      worker,
      finish_reason: message.finishReason,
      reply_to: message.replyTo,
      reasoning_length: reasoning?.length ?? null,
    });
  }

  /**
   * Cuts the last column, `details`, to fit into a packet.
   * @throws AppError `body_too_large` when it is longer than `max_allowed_packet`
   */
  #cutDetails(uid: string, row: (string | number | null)[]): void {
    const json = String(row.at(-1));
    // The other half of the packet is for the text.
    const rest = { ...this.#packet, chars: Math.floor(this.#packet.chars / 2) };
    if (json.length <= rest.chars) return;
    if (isTooLong(json, this.#packet)) throw messageTooLong();
    const first = firstPart(json, rest);
    row[row.length - 1] = first;
    this.#updates.push(...appendDetails(uid, json, first.length, this.#packet));
  }

  #epochOf(conversationId: string): number {
    return this.#restarts.get(conversationId) ?? this.#conversations.get(conversationId)?.epoch ?? 0;
  }

  #historyOf(conversationId: string, owner: string | null, { start }: TurnWrite): HistoryColumns {
    const existing = this.#conversations.get(conversationId);
    if (!existing || this.#restarts.has(conversationId))
      return newHistory(owner, start?.user ?? null, start?.system ?? null);
    // The hash begins with the end user, so it is wrong when the turn sets one.
    const isNamed = start?.user !== undefined && this.#settings.hasNoUser(conversationId);
    return isNamed ? UNKNOWN_HISTORY : existing;
  }

  #touch(conversationId: string, time: string, unit: TurnWrite = {}): Activity {
    const known = this.#activity.get(conversationId);
    if (known) {
      if (known.last < time) known.last = time;
      return known;
    }
    const existing = this.#conversations.get(conversationId);
    const owner = existing ? existing.owner : (unit.start?.by.owner ?? null);
    const activity: Activity = {
      created: time,
      last: time,
      owner,
      history: this.#historyOf(conversationId, owner, unit),
      unseen: !existing && !this.#restarts.has(conversationId) && unit.start !== undefined && mayExist(unit),
      lastSeq: this.#lastSeqs.get(conversationId) ?? 0,
    };
    this.#activity.set(conversationId, activity);
    return activity;
  }
}

function expiredConversations(
  turns: readonly TurnWrite[],
  locked: ReadonlyMap<string, LockedConversation>,
): Map<string, string> {
  const expired = new Map<string, string>();
  for (const { start } of turns) {
    const existing = start?.named ? locked.get(start.conversationId) : undefined;
    if (!start || !existing || !canAccess(start.by, existing.owner)) continue;
    const cutoff = toTime(start.expiredBefore);
    if (existing.pinned === 0 && existing.last_active < cutoff) expired.set(existing.id, cutoff);
  }
  return expired;
}

function messageTooLong(): AppError {
  return new AppError('body_too_large', 'The message is too long for the database; send a shorter one');
}
