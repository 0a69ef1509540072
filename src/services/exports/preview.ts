import type { ExportPart } from '../../domain/exports/exports.ts';
import type { ExportCounts } from './encoders.ts';

/** A row of the CSV; a conversation without messages has one whose message members are null. */
export interface ExportRow {
  readonly conversation_id: string;
  readonly created_at: string;
  readonly last_active: string;
  readonly message_id: string | null;
  readonly role: string | null;
  readonly content: string | null;
  readonly timestamp: string | null;
  readonly status: string | null;
}

export interface ExportPreview {
  readonly rows: readonly ExportRow[];
  readonly estimate: ExportCounts & { readonly bytes: number };
}

const NO_MESSAGE = { message_id: null, role: null, content: null, timestamp: null, status: null };

/** At most `limit` rows of the part. */
export function rowsOf({ conversation, messages, begins, ends }: ExportPart, limit: number): ExportRow[] {
  const { id: conversation_id, createdAt: created_at, lastActive: last_active } = conversation;
  const head = { conversation_id, created_at, last_active };
  if (messages.length === 0) return begins && ends && limit > 0 ? [{ ...head, ...NO_MESSAGE }] : [];
  return messages.slice(0, limit).map(({ uid: message_id, role, content, timestamp, status }) => {
    return { ...head, message_id, role, content, timestamp, status };
  });
}

/** How many times the sample the total is. */
export function ratio(total: ExportCounts, sampled: ExportCounts): number {
  if (sampled.messages > 0) return total.messages / sampled.messages;
  return sampled.conversations > 0 ? total.conversations / sampled.conversations : 0;
}
