/** Deleting what has been idle for too long, and the ports for it. */
import type { Instant } from './conversation.ts';

export interface PurgeCount {
  readonly conversations: number;
  readonly messages: number;
}

export interface PurgeStore {
  /** Counts what is last active before `cutoff`, changing nothing. */
  countExpired(cutoff: Instant): Promise<PurgeCount>;
  /**
   * Deletes up to `limit` conversations last active before `cutoff`, with their messages; the activity is checked
   * again inside the delete, and one that a reply is being written to is left alone. Both numbers are 0 when nothing
   * is left.
   * @param keep gets those that are to be deleted, a few at a time, outside of any transaction. When it rejects,
   * nothing is deleted; what changes after it was called is spared, and given to it again later.
   */
  deleteExpired(
    cutoff: Instant,
    limit: number,
    keep?: (ids: readonly string[]) => Promise<void>,
  ): Promise<PurgeCount>;
  /** Forgets up to `limit` of the deletions noted before `before`, and tells how many. */
  forgetDeletions(before: Instant, limit: number): Promise<number>;
  /** Runs `work` while no other process of this database purges; resolves to false, without running it, if one does. */
  exclusively(work: () => Promise<void>): Promise<boolean>;
}

/** Conversations on their way to the archive. */
export interface ArchiveBatch {
  /** Lines of JSON; may be read once. */
  readonly lines: AsyncIterable<string>;
  /** Of what was read so far. */
  counts(): PurgeCount & { readonly firstMessageId: string | null; readonly lastMessageId: string | null };
}

/** Where purged conversations are kept: a file for each day (UTC) on this host. One process at a time may use it. */
export interface PurgeArchive {
  /**
   * Appends to the file of that day. Resolves when all of it is on the disk. After a rejection (with the error of the
   * file system, `code` included, or of the lines) the archive is what it was before.
   */
  append(at: Instant, batch: ArchiveBatch): Promise<void>;
}
