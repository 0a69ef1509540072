import type { Counts, Instant } from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import type {
  ExportFilter,
  ExportPage,
  ExportPosition,
  ExportScope,
  ExportSource,
} from '../../domain/exports/exports.ts';
import type {
  ExportCheckpoint,
  ExportFormat,
  ExportManifest,
  ExportRequest,
  JobScope,
} from '../../domain/exports/jobs.ts';
import type { Metrics } from '../../domain/metrics.ts';
import type { Clock } from '../../domain/runtime.ts';
import { isoTime } from '../../domain/time.ts';
import type { CursorCodec } from './cursor-codec.ts';
import { csvEncoder, type ExportCounts, type ExportEncoder, jsonEncoder, ndjsonEncoder } from './encoders.ts';
import { type ExportPreview, type ExportRow, ratio, rowsOf } from './preview.ts';
import { type ExportText, encodeParts, exportText, maskPages, trackIds } from './text.ts';
import { ExportThrottle } from './throttle.ts';

export interface ExportForm {
  readonly format: ExportFormat;
  /** CSV without byte order mark and formula escaping. */
  readonly raw: boolean;
  /** NDJSON with a last line that holds the counts. */
  readonly summary?: boolean | undefined;
}

/** The conversations that match the filter: all of them, or this one. */
export interface ExportTarget {
  readonly filter: ExportFilter;
  readonly conversationId?: string;
}

export interface Export {
  /** UTF-8. Can be read once; rejects where the export fails. */
  readonly chunks: AsyncIterable<Buffer>;
  /** Of the chunks that were read so far. */
  counts(): ExportCounts;
}

/** A piece of an export file. */
export interface FileText {
  readonly text: string;
  /** After this piece, without `bytes`, which the writer of the file knows. */
  readonly state: Omit<ExportCheckpoint, 'bytes'>;
  /** Whether an export can resume after this piece. */
  readonly resumable: boolean;
}

/** Masks personal data in contents. */
export interface PersonalData {
  readonly mask: (text: string) => Promise<string>;
  /** Whether new exports are masked. */
  readonly masked: boolean;
}

interface ExportOptions {
  readonly personal?: PersonalData;
  readonly throttle?: Pick<ExportThrottle, 'throttle'>;
  readonly metrics?: Pick<Metrics, 'rowsExported'>;
}

const UNMASKED: PersonalData = { mask: async (text) => text, masked: false };
/** Messages that a preview reads to estimate the average size. */
const SAMPLE = 500;

/** Exports conversations. Expired conversations are left out, purged or not. */
export class ExportService {
  readonly #source: ExportSource;
  readonly #clock: Clock;
  readonly #cursors: CursorCodec;
  readonly #retention: Retention;
  readonly #personal: PersonalData;
  readonly #throttle: Pick<ExportThrottle, 'throttle'>;
  readonly #metrics: Pick<Metrics, 'rowsExported'> | undefined;

  constructor(
    source: ExportSource,
    cursors: CursorCodec,
    clock: Clock,
    retention: Retention,
    { personal = UNMASKED, throttle = new ExportThrottle(), metrics }: ExportOptions = {},
  ) {
    this.#source = source;
    this.#cursors = cursors;
    this.#clock = clock;
    this.#retention = retention;
    this.#personal = personal;
    this.#throttle = throttle;
    this.#metrics = metrics;
  }

  /**
   * Fixes the scope of the export; everything else is read with `chunks`.
   * @throws AppError `database_unavailable`
   */
  async start(target: ExportTarget, form: ExportForm): Promise<Export> {
    const now = this.#clock.now();
    const scope = await this.#scope(target, now);
    const counts = { conversations: 0, messages: 0 };
    const { masked } = this.#personal;
    const chunks = this.#chunks(this.#read(scope, masked), this.#encoder(scope, form, now, masked), counts);
    return { chunks, counts: () => ({ ...counts }) };
  }

  /**
   * The first rows, and an estimate of the whole.
   * @throws AppError `database_unavailable`
   */
  async preview(
    target: ExportTarget,
    form: ExportForm,
    limit: number,
    signal?: AbortSignal,
  ): Promise<ExportPreview> {
    const now = this.#clock.now();
    const scope = await this.#scope(target, now);
    const { masked } = this.#personal;
    const encoder = this.#encoder(scope, form, now, masked);
    const rows: ExportRow[] = [];
    const sampled = { conversations: 0, messages: 0 };
    let bytes = 0;
    for await (const { parts } of this.#read(scope, masked)) {
      signal?.throwIfAborted();
      for (const part of parts) rows.push(...rowsOf(part, limit - rows.length));
      for (const piece of encodeParts(encoder, parts, sampled, true)) bytes += Buffer.byteLength(piece);
      if (rows.length >= limit && sampled.messages >= Math.min(limit, SAMPLE)) break;
    }
    const total = await this.#source.count(scope, signal);
    const frame = Buffer.byteLength(encoder.opening() + encoder.closing(total));
    return {
      rows,
      estimate: { ...total, bytes: Math.round(frame + bytes * ratio(total, sampled)) },
    };
  }

  /**
   * Fixes and counts what an export file will hold.
   * Rejects with `database_unavailable` or the signal's reason.
   */
  async fixScope(
    { filter, since }: ExportRequest,
    signal?: AbortSignal,
    onPage?: () => void,
  ): Promise<JobScope> {
    const exportedAt = this.#clock.now();
    const scope = await this.#source.scope(filter, null, this.#retention.activeSince(exportedAt), since);
    const total = await this.#source.count(scope, signal, onPage);
    return { scope, exportedAt, ...total, masked: this.#personal.masked };
  }

  /** The text of an export file after the checkpoint. */
  async *fileText(
    form: ExportForm,
    { scope, exportedAt, conversations: total, masked = false }: JobScope,
    checkpoint: ExportCheckpoint,
  ): AsyncGenerator<FileText> {
    const encoder = this.#encoder(scope, form, exportedAt, masked);
    const { conversations, messages, firstMessageId, lastMessageId } = checkpoint;
    const counts = { conversations, messages };
    const range = { firstMessageId, lastMessageId };
    let { position, deleted } = checkpoint;
    const piece = (text: string, resumable = false): FileText => {
      return { text, state: { ...counts, ...range, deleted, position }, resumable };
    };
    if (checkpoint.bytes === 0) {
      yield piece(encoder.opening());
      for await (const page of this.#deletions(scope)) {
        const text = encoder.deletions(page, deleted === 0);
        deleted += page.length;
        yield piece(text);
      }
    }
    // Looking for changes takes as long as counting them did. What changed since is in the next incremental export.
    const pages = total === 0 ? [] : trackIds(this.#read(scope, masked, position), range);
    for await (const next of this.#text(pages, encoder, counts, deleted === 0)) {
      position = next.position ?? position;
      yield piece(next.text, next.position !== null);
    }
    yield piece(encoder.closing({ ...counts, deleted }));
  }

  /** @param whole the counts of the whole file, and its bytes as they are on the disk */
  async manifest(
    { request, scope, startedAt }: { request: ExportRequest; scope: JobScope; startedAt: Instant },
    whole: ExportCheckpoint,
    sha256: string,
  ): Promise<ExportManifest> {
    const { format, raw, compression, since } = request;
    const { from, to, role, status, rating = null } = request.filter;
    return {
      format,
      csv: format === 'csv' ? (raw ? 'raw' : 'escaped') : null,
      compression,
      filter: {
        ...{ start_date: isoTime(from), end_date: isoTime(to), role, status },
        ...(rating && { rating }),
        ...(since && { since: isoTime(since.at) }),
      },
      conversations: whole.conversations,
      messages: whole.messages,
      deleted: whole.deleted,
      bytes: whole.bytes,
      sha256,
      first_message_id: whole.firstMessageId,
      last_message_id: whole.lastMessageId,
      started_at: isoTime(startedAt),
      finished_at: isoTime(this.#clock.now()),
      cursor: await this.#cursors.encode({ at: scope.exportedAt }),
      ...(scope.masked && { pii_masked: true }),
    };
  }

  /** At the pace that chats leave. The parameters are those of {@link exportText}. */
  async *#text(
    ...[pages, encoder, counts, isFirst]: Parameters<typeof exportText>
  ): AsyncGenerator<ExportText> {
    let counted = counts.messages;
    for await (const piece of this.#throttle.throttle(exportText(pages, encoder, counts, isFirst))) {
      this.#metrics?.rowsExported(counts.messages - counted);
      counted = counts.messages;
      yield piece;
    }
  }

  #scope({ filter, conversationId }: ExportTarget, now: Instant): Promise<ExportScope> {
    return this.#source.scope(filter, conversationId ?? null, this.#retention.activeSince(now));
  }

  #deletions({ since, filter }: ExportScope) {
    // Jobs stored by versions without owners have no owner in their filter.
    return since ? this.#source.deletions(since, filter.owner ?? null) : [];
  }

  #encoder(
    scope: ExportScope,
    { format, raw, summary = false }: ExportForm,
    now: Instant,
    masked: boolean,
  ): ExportEncoder {
    const encoders: Readonly<Record<ExportFormat, () => ExportEncoder>> = {
      csv: () => csvEncoder(raw),
      ndjson: () => ndjsonEncoder(this.#retention, { summary, incremental: scope.since !== null }),
      json: () =>
        jsonEncoder(this.#retention, { ...scope, exportedAt: now, since: scope.since?.at ?? null, masked }),
    };
    return encoders[format]();
  }

  #read(
    scope: ExportScope,
    masked: boolean,
    position: ExportPosition | null = null,
  ): AsyncIterable<ExportPage> {
    const pages = this.#source.read(scope, position);
    return masked ? maskPages(pages, this.#personal.mask) : pages;
  }

  async *#chunks(
    pages: AsyncIterable<ExportPage>,
    encoder: ExportEncoder,
    counts: Counts,
  ): AsyncGenerator<Buffer> {
    // Sent before the first page is read.
    const opening = encoder.opening();
    if (opening !== '') yield Buffer.from(opening);
    for await (const { text } of this.#text(pages, encoder, counts, true)) {
      if (text !== '') yield Buffer.from(text);
    }
    const closing = encoder.closing(counts);
    if (closing !== '') yield Buffer.from(closing);
  }
}
