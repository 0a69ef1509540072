/** What an import has done, and why it could not. */
import type { Knex } from 'knex';
import {
  ImportError,
  type ImportOutcome,
  type ImportResult,
  MessageTakenError,
} from '../../domain/conversations/imports.ts';
import { errorCode } from '../../domain/errors.ts';
import { pause } from '../../util/timers.ts';
import { databaseBusy } from '../core/errors.ts';
import { removeSoon } from '../repositories/deletions.ts';
import type { Draft, Slice } from './draft.ts';

/** How often a conversation is tried that another process creates or locks. */
export const ATTEMPTS = 20;
export const RETRY_MS = 50;

export const SKIPPED: ImportResult = { outcome: 'skipped', messages: 0 };

/** The result of a conversation that was written. Removes rows of the one that it has replaced. */
export async function resultOf(
  knex: Knex,
  { count, id, epoch }: Draft,
  outcome: ImportOutcome,
): Promise<ImportResult> {
  if (outcome === 'skipped') return SKIPPED;
  if (outcome === 'replaced') {
    const marks = await knex('deletions').where({ conversation_id: id, pending: 1 }).select('id');
    const deletions = marks.map((mark) => ({ seq: mark.id, conversationId: id, epoch }));
    await removeSoon(knex, deletions);
  }
  return { outcome, messages: count };
}

/** Returns when the transaction is to be repeated. @throws ImportError or the error itself */
export async function explainDuplicate(
  knex: Knex,
  error: unknown,
  id: string,
  slices: readonly Slice[],
  attempt = ATTEMPTS,
): Promise<void> {
  if (!isDuplicate(error)) throw error;
  for (const { uids } of slices) {
    const [taken] = await knex('messages')
      .whereIn('uid', uids)
      .whereNot('conversation_id', id)
      .select('uid')
      .limit(1);
    if (taken) throw new MessageTakenError(taken.uid);
  }
  const seen = new Set<string>();
  for (const uid of slices.flatMap(({ uids }) => uids)) {
    if (seen.has(uid)) throw occursTwice(uid);
    seen.add(uid);
  }
  // Another process has just created the conversation, or has locked it.
  if (attempt >= ATTEMPTS) throw databaseBusy(error);
  await pause(RETRY_MS * Math.random());
}

function occursTwice(uid: string): ImportError {
  return new ImportError(`the message ${uid} occurs twice`);
}

/** The slices before have the message too. @throws ImportError */
export async function rejectRepeated(trx: Knex, { id, epoch }: Draft, { uids }: Slice): Promise<void> {
  const [repeated] = await trx('messages')
    .whereIn('uid', uids)
    .whereRaw('+conversation_id = ? AND epoch = ?', [id, epoch])
    .select('uid')
    .limit(1);
  if (repeated) throw occursTwice(repeated.uid);
}

const DUPLICATES = ['ER_DUP_ENTRY', 'SQLITE_CONSTRAINT_UNIQUE', 'SQLITE_CONSTRAINT_PRIMARYKEY'];

export function isDuplicate(error: unknown): boolean {
  return DUPLICATES.includes(errorCode(error) ?? '');
}
