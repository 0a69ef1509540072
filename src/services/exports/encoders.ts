/** The formats of exports: parts of conversations in, text out. */
import type { Instant } from '../../domain/conversation.ts';
import type {
  CsvFormat,
  ExportConversation,
  ExportDeletion,
  ExportFilter,
  ExportMessage,
} from '../../domain/exports.ts';
import type { Retention } from '../../domain/retention.ts';

export interface ExportCounts {
  readonly conversations: number;
  readonly messages: number;
  /** Conversations that were told to be gone; only of an incremental export. */
  readonly deleted?: number;
}

/** Gets conversations in order; the messages of one may come in several pieces. */
export interface ExportEncoder {
  /** Before everything; may be empty. */
  opening(): string;
  /**
   * Conversations that are gone, before those that are there. CSV has no way to say so.
   * @param first whether they are the first of all
   */
  deletions(deletions: readonly ExportDeletion[], first: boolean): string;
  /** @param first whether it is the first conversation of all */
  begin(conversation: ExportConversation, first: boolean): string;
  /** @param first whether they are the first messages of their conversation */
  messages(conversation: ExportConversation, messages: readonly ExportMessage[], first: boolean): string;
  /** @param empty whether it had no messages */
  end(conversation: ExportConversation, empty: boolean): string;
  /** What it has kept back so far. */
  rest(): string;
  closing(counts: ExportCounts): string;
}

export interface ExportMetadata {
  readonly filter: ExportFilter;
  readonly conversationId: string | null;
  readonly exportedAt: Instant;
  /** When the export was made whose changes these are; null: it is no incremental one. */
  readonly since: Instant | null;
  /** Whether personal data is masked. */
  readonly masked: boolean;
}

const MESSAGE_COLUMNS = ['message_id', 'role', 'content', 'timestamp', 'status'] as const;
export const EXPORT_COLUMNS = ['conversation_id', 'created_at', 'last_active', ...MESSAGE_COLUMNS] as const;

const BOM = '\uFEFF';
const NO_MESSAGE = MESSAGE_COLUMNS.map(() => '');

/**
 * Keeps a spreadsheet from running a text as a formula. What begins with the quote itself gets one too, so that
 * taking one leading quote away gives every text back. The full-width signs are formulas to East Asian Excel.
 */
export function escapeFormula(text: string): string {
  return /^[=+\-@\t\r\n'＝＋－＠]/.test(text) ? `'${text}` : text;
}

/** How many rows, or characters of contents, are turned into CSV at once: a call for each conversation is dear. */
const CSV_ROWS = 100;
const CSV_CHARS = 64 * 1024;

/** @param raw without byte order mark and formula escaping */
export function csvEncoder(csv: CsvFormat, raw: boolean): ExportEncoder {
  const shown = raw ? (text: string) => text : escapeFormula;
  let rows: (readonly string[])[] = [];
  let chars = 0;
  const rest = () => {
    if (rows.length === 0) return '';
    const lines = csv.lines(rows);
    rows = [];
    chars = 0;
    return lines;
  };
  const gathered = () => (rows.length < CSV_ROWS && chars < CSV_CHARS ? '' : rest());
  return {
    opening: () => (raw ? '' : BOM) + csv.lines([EXPORT_COLUMNS]),
    deletions: () => '',
    begin: () => '',
    messages({ id, createdAt, lastActive }, messages) {
      for (const { uid, role, content, timestamp, status } of messages) {
        // All other columns hold ids, times and words of ours, which no spreadsheet takes for a formula.
        rows.push([id, createdAt, lastActive, uid, role, shown(content), timestamp, status]);
        chars += content.length;
      }
      return gathered();
    },
    end({ id, createdAt, lastActive }, empty) {
      if (empty) rows.push([id, createdAt, lastActive, ...NO_MESSAGE]);
      return gathered();
    },
    rest,
    closing: rest,
  };
}

/** Ids, times and words need no escaping; only contents go through JSON.stringify. */
function jsonMessages(messages: readonly ExportMessage[], first: boolean): string {
  let text = '';
  for (const { uid, role, content, timestamp, status } of messages) {
    text += `${first && text === '' ? '' : ','}{"id":"${uid}","role":"${role}","content":${JSON.stringify(content)},"timestamp":"${timestamp}","status":"${status}"}`;
  }
  return text;
}

function jsonDeletion({ id, deletedAt }: ExportDeletion): string {
  return `{"conversation_id":"${id}","deleted":true,"deleted_at":"${deletedAt}"}`;
}

function jsonHead(conversation: ExportConversation, retention: Retention): string {
  const { id, createdAt, lastActive } = conversation;
  const expiresAt = retention.expiresAt(Date.parse(lastActive));
  const expires = expiresAt === null ? 'null' : `"${new Date(expiresAt).toISOString()}"`;
  return `{"conversation_id":"${id}","created_at":"${createdAt}","last_active":"${lastActive}","expires_at":${expires},"messages":[`;
}

export function ndjsonEncoder(retention: Retention): ExportEncoder {
  return {
    opening: () => '',
    deletions: (deletions) => deletions.map((one) => `${jsonDeletion(one)}\n`).join(''),
    begin: (conversation) => jsonHead(conversation, retention),
    messages: (_conversation, messages, first) => jsonMessages(messages, first),
    end: () => ']}\n',
    rest: () => '',
    closing: () => '',
  };
}

export function jsonEncoder(
  retention: Retention,
  { filter, conversationId, exportedAt, since, masked }: ExportMetadata,
): ExportEncoder {
  const time = (at: Instant | null) => (at === null ? null : new Date(at).toISOString());
  const { from, to, role, status } = filter;
  const metadata = {
    format: 'json',
    filter:
      conversationId === null
        ? { start_date: time(from), end_date: time(to), role, status, ...(since && { since: time(since) }) }
        : { conversation_id: conversationId },
    exported_at: time(exportedAt),
    ...(masked && { pii_masked: true }),
  };
  return {
    opening: () => `{"metadata":${JSON.stringify(metadata)},"conversations":[`,
    deletions: (deletions, first) =>
      deletions.map((one, index) => `${first && index === 0 ? '' : ','}\n${jsonDeletion(one)}`).join(''),
    begin: (conversation, first) => `${first ? '\n' : ',\n'}${jsonHead(conversation, retention)}`,
    messages: (_conversation, messages, first) => jsonMessages(messages, first),
    end: () => ']}',
    rest: () => '',
    closing: ({ conversations, messages, deleted }) => {
      const summary = { conversations, messages, ...(since && { deleted }) };
      return `\n],"summary":${JSON.stringify(summary)}}\n`;
    },
  };
}

/** The same with contents as `mask` leaves them, a few at a time as they are encoded. */
export function masking(encoder: ExportEncoder, mask: (text: string) => string): ExportEncoder {
  return {
    ...encoder,
    messages(conversation, messages, first) {
      const masked = messages.map((message) => ({ ...message, content: mask(message.content) }));
      return encoder.messages(conversation, masked, first);
    },
  };
}
