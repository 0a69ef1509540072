import type { Instant } from '../domain/conversation.ts';
import type {
  Clock,
  CsvFormat,
  ExportFilter,
  ExportPart,
  ExportScope,
  ExportSource,
} from '../domain/ports.ts';
import {
  csvEncoder,
  type ExportCounts,
  type ExportEncoder,
  jsonEncoder,
  ndjsonEncoder,
} from './export-encoders.ts';
import { encoded, exportText } from './export-text.ts';

export type ExportFormat = 'json' | 'csv' | 'ndjson';

export interface ExportForm {
  readonly format: ExportFormat;
  /** CSV without byte order mark and formula escaping. */
  readonly raw: boolean;
}

/** What is asked for: one conversation, or all that a filter lets through. */
export type ExportTarget =
  | { readonly conversationId: string }
  | { readonly conversationId?: undefined; readonly filter: ExportFilter };

export interface Export {
  /** UTF-8. May be read once; ends with an error where the export broke off. */
  readonly chunks: AsyncIterable<Buffer>;
  /** Of what has been handed out so far. */
  counts(): ExportCounts;
}

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

const EVERYTHING: ExportFilter = { from: null, to: null, role: null, status: null };
/** So few messages say how long one is on average. */
const SAMPLE = 500;

/** Conversations as files. An expired conversation is not there, whether it has been purged or not. */
export class ExportService {
  readonly #source: ExportSource;
  readonly #csv: CsvFormat;
  readonly #clock: Clock;
  readonly #ttlMs: number;

  /** @param ttlMs 0: conversations never expire */
  constructor(source: ExportSource, csv: CsvFormat, clock: Clock, ttlMs: number) {
    this.#source = source;
    this.#csv = csv;
    this.#clock = clock;
    this.#ttlMs = ttlMs;
  }

  /**
   * Fixes where the export ends. Nothing else is read before `chunks` is.
   * @throws AppError `database_unavailable`
   */
  async start(target: ExportTarget, form: ExportForm): Promise<Export> {
    const now = this.#clock.now();
    const scope = await this.#scope(target, now);
    const counts = { conversations: 0, messages: 0 };
    const chunks = this.#chunks(scope, this.#encoder(scope, form, now), counts);
    return { chunks, counts: () => ({ ...counts }) };
  }

  /**
   * The first rows and about how much there is.
   * @throws AppError `database_unavailable`
   */
  async preview(target: ExportTarget, form: ExportForm, limit: number): Promise<ExportPreview> {
    const now = this.#clock.now();
    const scope = await this.#scope(target, now);
    const encoder = this.#encoder(scope, form, now);
    const rows: ExportRow[] = [];
    const sampled = { conversations: 0, messages: 0 };
    let bytes = 0;
    for await (const parts of this.#source.read(scope)) {
      for (const part of parts) rows.push(...rowsOf(part).slice(0, limit - rows.length));
      for (const piece of encoded(encoder, parts, sampled)) bytes += Buffer.byteLength(piece);
      if (rows.length >= limit && sampled.messages >= Math.min(limit, SAMPLE)) break;
    }
    const total = await this.#source.count(scope);
    const frame = Buffer.byteLength(encoder.opening() + encoder.closing(total));
    return { rows, estimate: { ...total, bytes: Math.round(frame + bytes * share(total, sampled)) } };
  }

  #scope(target: ExportTarget, now: Instant): Promise<ExportScope> {
    const activeSince = this.#ttlMs === 0 ? 0 : now - this.#ttlMs;
    return target.conversationId === undefined
      ? this.#source.scope(target.filter, null, activeSince)
      : this.#source.scope(EVERYTHING, target.conversationId, activeSince);
  }

  #encoder(scope: ExportScope, { format, raw }: ExportForm, now: Instant): ExportEncoder {
    switch (format) {
      case 'csv':
        return csvEncoder(this.#csv, raw);
      case 'ndjson':
        return ndjsonEncoder(this.#ttlMs);
      case 'json':
        return jsonEncoder(this.#ttlMs, { ...scope, exportedAt: now });
    }
  }

  async *#chunks(
    scope: ExportScope,
    encoder: ExportEncoder,
    counts: { conversations: number; messages: number },
  ): AsyncGenerator<Buffer> {
    // Leaves at once, whatever the first page takes.
    const opening = encoder.opening();
    if (opening !== '') yield Buffer.from(opening);
    for await (const { text } of exportText(this.#source.read(scope), encoder, counts)) {
      if (text !== '') yield Buffer.from(text);
    }
    const closing = encoder.closing(counts);
    if (closing !== '') yield Buffer.from(closing);
  }
}

/** How many times as much as the sample there is. */
function share(total: ExportCounts, sampled: ExportCounts): number {
  if (sampled.messages > 0) return total.messages / sampled.messages;
  return sampled.conversations > 0 ? total.conversations / sampled.conversations : 0;
}

function rowsOf({ conversation, messages, begins, ends }: ExportPart): ExportRow[] {
  const { id: conversation_id, createdAt: created_at, lastActive: last_active } = conversation;
  const head = { conversation_id, created_at, last_active };
  const none = { message_id: null, role: null, content: null, timestamp: null, status: null };
  if (messages.length === 0) return begins && ends ? [{ ...head, ...none }] : [];
  return messages.map(({ uid, role, content, timestamp, status }) => {
    return { ...head, message_id: uid, role, content, timestamp, status };
  });
}
