import type { Logger } from 'pino';
import type { TurnWrite, TurnWriter, WriteOutcome } from '../../domain/chat/turns.ts';
import { errorCode, isDatabaseBusy, isUnavailable } from '../../domain/errors.ts';
import type { Journal, JournalEntry } from './journal.ts';

/** Matches the number of units in one transaction of the group commit. */
const BATCH_UNITS = 100;

export interface ReplayParts {
  readonly writer: TurnWriter;
  readonly journal: Journal;
  readonly logger: Logger;
  /** Ends the replay between two batches. */
  readonly signal: AbortSignal;
  /** Called when the database has saved entries. */
  readonly onSuccess: () => void;
}

export interface ReplayRun {
  readonly turns: number;
  /** The outage that ended the replay early. */
  readonly failure: unknown;
  /** Whether entries remain because their rows are locked. */
  readonly busy: boolean;
}

/**
 * Writes the entries to the database, oldest first, until the journal is empty. An entry is removed after its commit.
 * After a crash in between it is written again, which changes nothing. Entries of one conversation are removed in
 * order.
 * @throws AppError when the journal itself fails
 */
export async function replay(parts: ReplayParts): Promise<ReplayRun> {
  let turns = 0;
  while (!parts.signal.aborted) {
    const entries = parts.journal.take(BATCH_UNITS);
    if (entries.length === 0) break;
    const { saved, busy, failure } = await replayBatch(parts, entries);
    turns += saved;
    if (failure !== undefined || busy) return { turns, failure, busy };
  }
  return { turns, failure: undefined, busy: false };
}

type Settled = { readonly outcome: WriteOutcome } | { readonly error: unknown };

/** Each call saves or rejects at least the first entry, or ends the replay. */
async function replayBatch(parts: ReplayParts, entries: readonly JournalEntry[]) {
  const settled = await Promise.all(entries.map(({ unit }) => attempt(parts, unit)));
  const done: number[] = [];
  // An earlier entry of these conversations is not written yet, so the outcomes of later ones may be wrong.
  const skipped = new Set<string>();
  const failed: JournalEntry[] = [];
  let failure: unknown;
  let busy = false;
  for (const [index, result] of settled.entries()) {
    const entry = entries[index];
    if (!entry) continue;
    const { conversationId, seq } = entry;
    if ('outcome' in result) {
      if (skipped.has(conversationId)) continue;
      if (result.outcome === 'gone' && isOrphan(parts.journal, entry)) await reject(parts, entry, 'orphaned');
      else if (result.outcome === 'foreign') await reject(parts, entry, 'foreign');
      else done.push(seq);
      continue;
    }
    if (isUnavailable(result.error)) failure ??= result.error;
    else if (isDatabaseBusy(result.error)) busy = true;
    else if (!skipped.has(conversationId)) failed.push(entry);
    skipped.add(conversationId);
  }
  if (done.length > 0) {
    await parts.journal.remove(done);
    parts.onSuccess();
  }
  let saved = done.length;
  for (const entry of failure === undefined ? failed : []) {
    const again = await attempt(parts, entry.unit);
    if ('outcome' in again) {
      await parts.journal.remove([entry.seq]);
      saved += 1;
    } else if (isUnavailable(again.error)) return { saved, busy, failure: again.error };
    else if (isDatabaseBusy(again.error)) busy = true;
    else await reject(parts, entry, reasonOf(again.error));
  }
  return { saved, busy, failure };
}

async function attempt({ writer }: ReplayParts, unit: TurnWrite | null): Promise<Settled> {
  if (!unit) return { error: new UnreadableEntryError() };
  try {
    return { outcome: await writer.write({ ...unit, replayed: true }) };
  } catch (error) {
    return { error };
  }
}

class UnreadableEntryError extends Error {
  override readonly name = 'unreadable';
}

/**
 * Whether the entry's question, or the reply whose calls it answers, is missing because it was rejected and not
 * deleted.
 */
function isOrphan(journal: Journal, { conversationId, unit }: JournalEntry): boolean {
  const missing = unit?.start ? unit.start.answers : unit?.reply?.replyTo;
  return typeof missing === 'string' && journal.wasRejected(conversationId, missing);
}

async function reject({ journal, logger }: ReplayParts, entry: JournalEntry, reason: string): Promise<void> {
  await journal.reject(entry.seq, reason);
  const { conversationId, uid } = entry;
  logger.error({ conversation_id: conversationId, uid, reason }, 'journal entry rejected by the database');
}

/** Code or name only: the message of an error can quote the turn. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown';
  return errorCode(error) ?? error.name;
}
