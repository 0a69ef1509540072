import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type {
  ConversationHead,
  SearchedConversations,
  TextMatcher,
  WithinConversation,
} from '../../domain/conversations/conversation.ts';
import { type Dialect, dialectOf } from '../core/dialect.ts';
import { select } from '../core/errors.ts';
import { FIRST, firstRange, LAST, messageOrder, messagesOf, positionOf } from '../core/order.ts';
import type { MessageRow } from '../core/tables.ts';

/** Messages of one statement; on SQLite it blocks the event loop. */
const ROWS = 500;
const ROWS_ON_ONE_CONNECTION = 100;
/** Longer contents are read one by one, bytes. */
const LONG = 8192;
/** Conversations of the first statement. */
const FIRST_STEP = 20;
const MAX_STEP = 200;

type TextRow = Pick<MessageRow, 'id' | 'seq' | 'conversation_id' | 'epoch' | 'status'> & {
  content: string | null;
};

/**
 * Looks through the messages of conversations. In the process and not in the database: no index helps a substring, and
 * the databases differ in what they take for the same letter.
 */
export class ConversationSearch {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #limit: number;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#limit = this.#dialect.pooled ? ROWS : ROWS_ON_ONE_CONNECTION;
  }

  /** See {@link ConversationRepository.search}. */
  async run(
    heads: readonly ConversationHead[],
    text: TextMatcher,
    from: WithinConversation | null,
    isOver: () => boolean,
  ): Promise<SearchedConversations> {
    const matches = new Set<string>();
    for (const { id, title } of heads) if (title !== null && (await text.isIn(title))) matches.add(id);
    let step = FIRST_STEP;
    let searched = 0;
    let before = startWithin(heads[0], from);
    for (let head = heads[0]; head; head = heads[searched]) {
      if (matches.has(head.id)) before = null;
      else if (before === null) {
        const done = await this.#readTogether(heads.slice(searched, searched + step), text, matches);
        searched += done;
        step = Math.min(MAX_STEP, Math.max(1, 2 * done));
        if (done === 0) before = LAST;
      } else before = await this.#readOne(head, before, text, matches);
      // A conversation that was read by itself, or matches by its title.
      if (head === heads[searched] && before === null) searched += 1;
      if (searched < heads.length && isOver()) break;
      await nextTurn();
    }
    return { matches, searched, before };
  }

  /** @returns how many of the first conversations are read to their end, or match */
  async #readTogether(
    heads: readonly ConversationHead[],
    text: TextMatcher,
    matches: Set<string>,
  ): Promise<number> {
    const epochs = new Map(heads.map(({ id, epoch }) => [id, epoch]));
    const rows = await this.#rows(heads);
    for (const row of rows) {
      if (row.epoch !== epochs.get(row.conversation_id) || matches.has(row.conversation_id)) continue;
      if (await this.#matches(row, text)) matches.add(row.conversation_id);
    }
    const cut = rows.length < this.#limit ? '' : (rows.at(-1)?.conversation_id ?? '');
    const missing = heads.findIndex(({ id }) => id <= cut && !matches.has(id));
    return missing < 0 ? heads.length : missing;
  }

  /** @returns before which message to read on; null: it is read to its end, or matches */
  async #readOne(
    head: ConversationHead,
    before: number,
    text: TextMatcher,
    matches: Set<string>,
  ): Promise<number | null> {
    const rows = await this.#rows([head], before - 1);
    for (const row of rows) {
      if (!(await this.#matches(row, text))) continue;
      matches.add(head.id);
      return null;
    }
    const last = rows.at(-1);
    return last && rows.length === this.#limit ? positionOf(last) : null;
  }

  async #matches({ id, status, content }: TextRow, text: TextMatcher): Promise<boolean> {
    if (status === 'superseded') return false;
    if (content !== null) return text.isIn(content);
    const [long] = await select<Pick<MessageRow, 'content'>>(
      this.#knex,
      'SELECT content FROM messages WHERE id = ?',
      [id],
    );
    return long !== undefined && text.isIn(long.content);
  }

  #rows(heads: readonly ConversationHead[], until = LAST): Promise<TextRow[]> {
    const conversations = messagesOf(heads);
    const { sql, bindings } = firstRange(FIRST, until);
    return select(
      this.#knex,
      `SELECT id, seq, conversation_id, epoch, status, CASE WHEN OCTET_LENGTH(content) <= ${LONG} THEN content END AS content
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE ${conversations.sql} ${sql} ${messageOrder('DESC')} LIMIT ?`,
      [...conversations.bindings, ...bindings, this.#limit],
    );
  }
}

function startWithin(first: ConversationHead | undefined, from: WithinConversation | null): number | null {
  return from !== null && first?.id === from.id ? from.seq : null;
}
