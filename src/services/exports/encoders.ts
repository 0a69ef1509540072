/** The formats of exports: parts of conversations in, text out. */
import { stringify } from 'csv-stringify/sync';
import type { ContentPart, Instant } from '../../domain/conversations/conversation.ts';
import { ReplyOrder } from '../../domain/conversations/imports.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import type {
  ExportConversation,
  ExportDeletion,
  ExportFilter,
  ExportMessage,
  MessageExtras,
} from '../../domain/exports/exports.ts';
import { isoTime } from '../../domain/time.ts';
import { lineJson } from '../../util/line-json.ts';

export interface ExportCounts {
  readonly conversations: number;
  readonly messages: number;
  /** Deleted conversations; only in an incremental export. */
  readonly deleted?: number;
}

/** Called with conversations in order; the messages of one may come in several pieces. */
export interface ExportEncoder {
  opening(): string;
  /**
   * Deleted conversations, before all others. CSV cannot express them.
   * @param first whether they are the first of the export
   */
  deletions(deletions: readonly ExportDeletion[], first: boolean): string;
  /** @param first whether it is the first conversation of the export */
  begin(conversation: ExportConversation, first: boolean): string;
  /** @param first whether they are the first messages of their conversation */
  messages(conversation: ExportConversation, messages: readonly ExportMessage[], first: boolean): string;
  /** @param empty whether it had no messages */
  end(conversation: ExportConversation, empty: boolean): string;
  /** The text that is buffered for a larger batch. */
  flush(): string;
  closing(counts: ExportCounts): string;
}

export interface ExportMetadata {
  readonly filter: ExportFilter;
  readonly conversationId: string | null;
  readonly exportedAt: Instant;
  /** The time of the previous export that this incremental one continues; null: a full export. */
  readonly since: Instant | null;
  /** Whether personal data is masked. */
  readonly masked: boolean;
}

const MESSAGE_COLUMNS = ['message_id', 'role', 'content', 'timestamp', 'status'] as const;
export const EXPORT_COLUMNS = ['conversation_id', 'created_at', 'last_active', ...MESSAGE_COLUMNS] as const;

const BOM = '\uFEFF';
const NO_MESSAGE = MESSAGE_COLUMNS.map(() => '');

/**
 * Where a spreadsheet could begin a cell: at the start, and, where it separates by something else than a comma, also
 * after a semicolon, tab or line break. Before a sign of a formula there (Excel with an East Asian locale also runs
 * the full-width ones) or a single quote.
 */
const CELL_START = /(?<=^|[;\t\r\n])(?="*[=+\-@＝＋－＠'])|^(?=[\t\r\n])/g;
/** Finds texts without a {@link CELL_START} faster. */
const MAY_START_CELL = /^["=+\-@＝＋－＠'\t\r\n]|[;\t\r\n]["=+\-@＝＋－＠']/;

/** Keeps a spreadsheet from running a text as a formula: puts a quote before each one, and before a quote there. */
export function escapeFormula(text: string): string {
  return MAY_START_CELL.test(text) ? text.replace(CELL_START, "'") : text;
}

/** The inverse of {@link escapeFormula}. */
export function unescapeFormula(text: string): string {
  return text.replace(/(^|[;\t\r\n])'/g, '$1');
}

/** RFC 4180. `quoted_match`: by itself the library quotes only the line break that ends its records.
 * Semicolons and tabs are separators too for LibreOffice's defaults. */
const CSV = { record_delimiter: '\r\n', quoted_match: /[;\t\r\n]/ };
/** Rows, or characters of contents, per call of the library: a call for each conversation is slow. */
const CSV_ROWS = 100;
const CSV_CHARS = 64 * 1024;

/** @param raw without byte order mark and formula escaping */
export function csvEncoder(raw: boolean): ExportEncoder {
  const toCell = raw ? (text: string) => text : escapeFormula;
  let rows: string[][] = [];
  let chars = 0;
  const flush = () => {
    if (rows.length === 0) return '';
    const lines = stringify(rows, CSV);
    rows = [];
    chars = 0;
    return lines;
  };
  const flushIfFull = () => (rows.length < CSV_ROWS && chars < CSV_CHARS ? '' : flush());
  return {
    opening: () => (raw ? '' : BOM) + stringify([[...EXPORT_COLUMNS]], CSV),
    deletions: () => '',
    begin: () => '',
    messages({ id, createdAt, lastActive }, messages) {
      for (const { uid, role, content: text, timestamp, status, more } of messages) {
        const content = more?.details?.parts ? textWithImages(more.details.parts) : text;
        // The other columns hold ids, times and fixed words, which are never formulas.
        rows.push([id, createdAt, lastActive, uid, role, toCell(content), timestamp, status]);
        chars += content.length;
      }
      return flushIfFull();
    },
    end({ id, createdAt, lastActive }, empty) {
      if (empty) rows.push([id, createdAt, lastActive, ...NO_MESSAGE]);
      return flushIfFull();
    },
    flush,
    closing: flush,
  };
}

/** An image in a cell. */
function textWithImages(parts: readonly ContentPart[]): string {
  return parts.map((part) => (part.type === 'text' ? part.text : '[image]')).join('\n');
}

/** Only contents need escaping: the other members are ids, times and fixed words. */
function jsonMessages(messages: readonly ExportMessage[], first: boolean, order: ReplyOrder): string {
  let text = '';
  for (const message of messages) {
    const { uid, role, content, timestamp, status, more } = message;
    const rest = replyTo(message, order) + (more === undefined ? '' : jsonExtras(more));
    text += `${first && text === '' ? '' : ','}{"id":"${uid}","role":"${role}","content":${lineJson(content)},"timestamp":"${timestamp}","status":"${status}"${rest}}`;
  }
  return text;
}

/** Only where an import could not tell, from the messages before it, what a message replies to. */
function replyTo({ uid, role, status, replyTo: id, more }: ExportMessage, order: ReplyOrder): string {
  const expected = order.expected({ role, status });
  order.add({ uid, role, status, details: more?.details });
  return id && expected !== undefined && id !== expected ? `,"reply_to":"${id}"` : '';
}

/** Members after others. Usage is JSON already. */
function jsonExtras({ model, finishReason, usage, reasoning, details, feedback }: MessageExtras): string {
  let text = '';
  if (model !== null) text += `,"model":${lineJson(model)}`;
  if (finishReason !== null) text += `,"finish_reason":"${finishReason}"`;
  if (usage !== null) text += `,"usage":${usage}`;
  if (details === null && reasoning === null && feedback === null) return text;
  const { parts, tool_calls, tool_call_id, refusal } = details ?? {};
  const others = { reasoning, parts, tool_calls, tool_call_id, refusal, feedback };
  const set = Object.entries(others).filter(([, value]) => value !== undefined && value !== null);
  return text + set.map(([name, value]) => `,"${name}":${lineJson(value)}`).join('');
}

function jsonDeletion({ id, deletedAt }: ExportDeletion): string {
  return `{"conversation_id":"${id}","deleted":true,"deleted_at":"${deletedAt}"}`;
}

function jsonHead(conversation: ExportConversation, retention: Retention): string {
  const { id, createdAt, lastActive, settings } = conversation;
  const pinned = settings?.pinned === true;
  const expiresAt = retention.expiresAt({ lastActive: Date.parse(lastActive), pinned });
  const expires = JSON.stringify(isoTime(expiresAt));
  return `{"conversation_id":"${id}","created_at":"${createdAt}","last_active":"${lastActive}","expires_at":${expires},${jsonSettings(settings)}"messages":[`;
}

/** Members before others; only those that are set. */
function jsonSettings(settings: ExportConversation['settings']): string {
  if (!settings) return '';
  const { title, pinned, user, metadata, system, model, parameters } = settings;
  const members = { title, pinned: pinned || null, user, metadata, system, model, parameters };
  const set = Object.entries(members).filter(([, value]) => value !== null);
  return set.map(([name, value]) => `"${name}":${lineJson(value)},`).join('');
}

const NO_SUMMARY = { summary: false, incremental: false };

function summaryOf({ conversations, messages, deleted }: ExportCounts, incremental: boolean) {
  return { conversations, messages, ...(incremental && { deleted }) };
}

export function ndjsonEncoder(
  retention: Retention,
  { summary, incremental }: { readonly summary: boolean; readonly incremental: boolean } = NO_SUMMARY,
): ExportEncoder {
  let order = new ReplyOrder();
  return {
    opening: () => '',
    deletions: (deletions) => deletions.map((one) => `${jsonDeletion(one)}\n`).join(''),
    begin: (conversation) => jsonHead(conversation, retention),
    messages(_conversation, messages, first) {
      if (first) order = new ReplyOrder();
      return jsonMessages(messages, first, order);
    },
    end: () => ']}\n',
    flush: () => '',
    closing: (counts) => (summary ? `${JSON.stringify({ summary: summaryOf(counts, incremental) })}\n` : ''),
  };
}

export function jsonEncoder(
  retention: Retention,
  { filter, conversationId, exportedAt, since, masked }: ExportMetadata,
): ExportEncoder {
  const { from, to, role, status, rating = null } = filter;
  const metadata = {
    format: 'json',
    filter:
      conversationId === null
        ? {
            start_date: isoTime(from),
            end_date: isoTime(to),
            role,
            status,
            ...(rating && { rating }),
            ...(since && { since: isoTime(since) }),
          }
        : { conversation_id: conversationId, ...(role && { role }), ...(status && { status }) },
    exported_at: isoTime(exportedAt),
    ...(masked && { pii_masked: true }),
  };
  let order = new ReplyOrder();
  return {
    opening: () => `{"metadata":${JSON.stringify(metadata)},"conversations":[`,
    deletions: (deletions, first) =>
      deletions.map((one, index) => `${first && index === 0 ? '' : ','}\n${jsonDeletion(one)}`).join(''),
    begin: (conversation, first) => `${first ? '\n' : ',\n'}${jsonHead(conversation, retention)}`,
    messages(_conversation, messages, first) {
      if (first) order = new ReplyOrder();
      return jsonMessages(messages, first, order);
    },
    end: () => ']}',
    flush: () => '',
    closing: (counts) => `\n],"summary":${JSON.stringify(summaryOf(counts, since !== null))}}\n`,
  };
}
