/** Deleting idle conversations, and the ports for it. */
import type { Instant } from './conversation.ts';

export interface PurgeCount {
  readonly conversations: number;
  readonly messages: number;
}

/** A text for each conversation id; it changes with every write to the conversation or its messages. */
export type ConversationVersions = ReadonlyMap<string, string>;

export interface PurgeStore {
  /** Counts conversations last active before `cutoff`. */
  countExpired(cutoff: Instant): Promise<PurgeCount>;
  /** Up to `limit` conversations last active before `cutoff`, least recent first, without those that have a streaming reply. */
  candidates(cutoff: Instant, limit: number): Promise<string[]>;
  versions(ids: readonly string[]): Promise<ConversationVersions>;
  /**
   * Deletes the conversations with their messages, except those that were active since `cutoff` or have a streaming
   * reply.
   * @param versions if given, conversations with another version now are not deleted either
   */
  delete(ids: readonly string[], cutoff: Instant, versions?: ConversationVersions): Promise<PurgeCount>;
  /** Deletes up to `limit` records of deletions made before `before`. @returns how many */
  forgetDeletions(before: Instant, limit: number): Promise<number>;
  /** Runs `work` under a lock among all processes on this database; null, without running it, when the lock is taken. */
  exclusively<T>(work: () => Promise<T>): Promise<T | null>;
}

/** Conversations for the archive. */
export interface ArchiveBatch {
  /** Lines of NDJSON; can be read once. */
  readonly lines: AsyncIterable<string>;
  /** Of the lines that were read so far. */
  counts(): PurgeCount & { readonly firstMessageId: string | null; readonly lastMessageId: string | null };
}

/** The archive of purged conversations: a file for each day (UTC) on this host, used by one process at a time. */
export interface PurgeArchive {
  /**
   * Appends to the file of that day. Resolves when everything is on the disk. After a rejection (with the error of the
   * file system, `code` included, or of the lines) the archive is unchanged.
   */
  append(at: Instant, batch: ArchiveBatch): Promise<void>;
}
