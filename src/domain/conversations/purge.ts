/** Deleting idle conversations, and the ports for it. */
import type { ConversationCursor, Counts, Instant } from './conversation.ts';

/** A text for each conversation id; it changes with every write to the conversation or its messages. */
export type ConversationVersions = ReadonlyMap<string, string>;

/** A deleted conversation whose rows are invisible, but not removed yet. */
export interface PendingDeletion {
  /** Of the record of the deletion. */
  readonly seq: number;
  readonly conversationId: string;
  readonly epoch: number;
}

export interface RemovalOptions {
  /** Checked before each slice. */
  readonly isStopped?: () => boolean;
  readonly onSlice?: (removed: Counts) => void;
}

/** `removal` of the rows of deleted conversations. */
export type PurgeLock = 'purge' | 'removal';

export interface PurgeStore {
  /** Counts conversations last active before `cutoff`. */
  countExpired(cutoff: Instant): Promise<Counts>;
  /** Up to `limit` conversations after `after` that were last active before `cutoff`, least recent first. */
  candidates(cutoff: Instant, after: ConversationCursor | null, limit: number): Promise<ConversationCursor[]>;
  versions(ids: readonly string[]): Promise<ConversationVersions>;
  /**
   * Makes the conversations invisible, except those that were active since `cutoff` or have a streaming reply.
   * @param versions if given, conversations with another version now are not deleted either
   */
  hide(
    ids: readonly string[],
    cutoff: Instant,
    versions?: ConversationVersions,
  ): Promise<readonly PendingDeletion[]>;
  /** Counts conversations as deleted that a process began to copy or import and did not complete. */
  abandonUnfinished(now: Instant): Promise<void>;
  /** @param after the `seq` of the last one of the page before; 0: from the first */
  pendingDeletions(after: number, limit: number): Promise<readonly PendingDeletion[]>;
  /** Removes the rows of deleted conversations in slices. @returns false when it was ended early */
  remove(deletions: readonly PendingDeletion[], options: RemovalOptions): Promise<boolean>;
  /** Deletes up to `limit` records of deletions made before `before`. @returns how many */
  forgetDeletions(before: Instant, limit: number): Promise<number>;
  /** All conversations last active before `cutoff`, deleted ones with rows left included. */
  countLeft(cutoff: Instant): Promise<number>;
  /**
   * Runs `work` under a lock among all processes on this database; null, without running it, when the lock is taken.
   * SQLite, which one server uses at a time, has no lock for `removal`.
   */
  exclusively<T>(lock: PurgeLock, work: () => Promise<T>): Promise<T | null>;
}

/** Conversations for the archive. */
export interface ArchiveBatch {
  /** Lines of NDJSON; can be read once. */
  readonly lines: AsyncIterable<string>;
  /** Of the lines that were read so far. */
  counts(): Counts & { readonly firstMessageId: string | null; readonly lastMessageId: string | null };
}

/** The archive of purged conversations: a file for each day (UTC) on this host, used by one process at a time. */
export interface PurgeArchive {
  /**
   * Appends to the file of that day. Resolves when everything is on the disk. After a rejection (with the error of the
   * file system, `code` included, or of the lines) the archive is unchanged.
   */
  append(at: Instant, batch: ArchiveBatch): Promise<void>;
}
