import type { Logger } from 'pino';
import { errorCode, isUnavailable } from '../../domain/errors.ts';
import type { TurnWrite, TurnWriter, WriteOutcome } from '../../domain/turns.ts';
import type { Journal, JournalEntry } from './journal.ts';

/** As many as the group commit takes in one transaction. */
const TAKE = 100;

export interface ReplayParts {
  readonly inner: TurnWriter;
  readonly journal: Journal;
  readonly logger: Logger;
  /** Ends the replay between two takes. */
  readonly signal: AbortSignal;
  /** The database took something. */
  readonly answered: () => void;
}

export interface ReplayRun {
  readonly turns: number;
  /** What ended it while something still waits; undefined when nothing does, or when it was told to end. */
  readonly fault: unknown;
}

/**
 * Writes what waits, oldest first, until nothing does. An entry leaves the journal after its commit, so that a crash
 * in between repeats it, which changes nothing. Within a conversation nothing is taken out before what came earlier.
 * @throws AppError when the journal itself fails
 */
export async function replay(parts: ReplayParts): Promise<ReplayRun> {
  let turns = 0;
  while (!parts.signal.aborted) {
    const entries = parts.journal.take(TAKE);
    if (entries.length === 0) break;
    const { saved, fault } = await replayBatch(parts, entries);
    turns += saved;
    if (fault !== undefined) return { turns, fault };
  }
  return { turns, fault: undefined };
}

type Settled = { readonly outcome: WriteOutcome } | { readonly error: unknown };

/** Makes progress with every call: at least the first entry is saved, put aside, or the fault of the whole run. */
async function replayBatch(parts: ReplayParts, entries: readonly JournalEntry[]) {
  const settled = await Promise.all(entries.map(({ unit }) => attempt(parts, unit)));
  const done: number[] = [];
  // Of these conversations something earlier is not written yet: an outcome that came without it may be wrong.
  const held = new Set<string>();
  const failed: JournalEntry[] = [];
  let fault: unknown;
  for (const [index, result] of settled.entries()) {
    const entry = entries[index];
    if (!entry) continue;
    const { conversationId, seq } = entry;
    if ('outcome' in result) {
      if (held.has(conversationId)) continue;
      if (result.outcome === 'gone' && orphaned(parts.journal, entry)) refuse(parts, entry, 'orphaned');
      else if (result.outcome === 'foreign') refuse(parts, entry, 'foreign');
      else done.push(seq);
      continue;
    }
    if (isUnavailable(result.error)) fault ??= result.error;
    else if (!held.has(conversationId)) failed.push(entry);
    held.add(conversationId);
  }
  if (done.length > 0) {
    parts.journal.remove(done);
    parts.answered();
  }
  let saved = done.length;
  for (const entry of fault === undefined ? failed : []) {
    const again = await attempt(parts, entry.unit);
    if ('outcome' in again) {
      parts.journal.remove([entry.seq]);
      saved += 1;
    } else if (isUnavailable(again.error)) return { saved, fault: again.error };
    else refuse(parts, entry, nameOf(again.error));
  }
  return { saved, fault };
}

async function attempt({ inner }: ReplayParts, unit: TurnWrite | null): Promise<Settled> {
  if (!unit) return { error: new Unreadable() };
  try {
    return { outcome: await inner.write({ ...unit, replayed: true }) };
  } catch (error) {
    return { error };
  }
}

class Unreadable extends Error {
  override readonly name = 'unreadable';
}

/** Its question was put aside: that is why the database knows nothing of it, and not because it was deleted. */
function orphaned(journal: Journal, { conversationId, unit }: JournalEntry): boolean {
  const question = unit?.start ? null : unit?.reply?.replyTo;
  return typeof question === 'string' && journal.wasRejected(conversationId, question);
}

function refuse({ journal, logger }: ReplayParts, entry: JournalEntry, reason: string): void {
  journal.reject(entry.seq, reason);
  const { conversationId, uid } = entry;
  logger.error(
    { conversationId, uid, reason },
    'the database refuses a turn of the journal; it is put aside',
  );
}

/** Never the message of an error, which may tell what was said. */
function nameOf(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown';
  return errorCode(error) ?? error.name;
}
