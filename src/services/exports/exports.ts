import type { Instant } from '../../domain/conversation.ts';
import type {
  ExportCheckpoint,
  ExportFormat,
  ExportJob,
  ExportManifest,
  ExportRequest,
  JobScope,
} from '../../domain/export-jobs.ts';
import type { CsvFormat, ExportFilter, ExportPart, ExportScope, ExportSource } from '../../domain/exports.ts';
import type { Retention } from '../../domain/retention.ts';
import type { Clock } from '../../domain/runtime.ts';
import type { CursorCodec } from './cursor-codec.ts';
import {
  csvEncoder,
  type ExportCounts,
  type ExportEncoder,
  jsonEncoder,
  masking,
  ndjsonEncoder,
} from './encoders.ts';
import { encoded, exportText } from './text.ts';
import { ExportThrottle } from './throttle.ts';

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

/** Personal data in what was said. */
export interface PersonalData {
  readonly mask: (text: string) => string;
  /** Whether exports are masked, but for those that began before that was so. */
  readonly masked: boolean;
}

interface ExportOptions {
  readonly personal?: PersonalData;
  /** What the export lets go first; by default nothing. */
  readonly throttle?: Pick<ExportThrottle, 'throttle'>;
}

const SHOWN: PersonalData = { mask: (text) => text, masked: false };
const EVERYTHING: ExportFilter = { owner: null, from: null, to: null, role: null, status: null };
/** So few messages say how long one is on average. */
const SAMPLE = 500;

/** Conversations as files. An expired conversation is not there, whether it has been purged or not. */
export class ExportService {
  readonly #source: ExportSource;
  readonly #csv: CsvFormat;
  readonly #clock: Clock;
  readonly #cursors: CursorCodec;
  readonly #retention: Retention;
  readonly #personal: PersonalData;
  readonly #throttle: Pick<ExportThrottle, 'throttle'>;

  constructor(
    source: ExportSource,
    csv: CsvFormat,
    cursors: CursorCodec,
    clock: Clock,
    retention: Retention,
    { personal = SHOWN, throttle = new ExportThrottle() }: ExportOptions = {},
  ) {
    this.#source = source;
    this.#csv = csv;
    this.#cursors = cursors;
    this.#clock = clock;
    this.#retention = retention;
    this.#personal = personal;
    this.#throttle = throttle;
  }

  /**
   * Fixes where the export ends. Nothing else is read before `chunks` is.
   * @throws AppError `database_unavailable`
   */
  async start(target: ExportTarget, form: ExportForm): Promise<Export> {
    const now = this.#clock.now();
    const scope = await this.#scope(target, now);
    const counts = { conversations: 0, messages: 0 };
    const chunks = this.#chunks(scope, this.#encoder(scope, form, now, this.#personal.masked), counts);
    return { chunks, counts: () => ({ ...counts }) };
  }

  /**
   * The first rows and about how much there is.
   * @throws AppError `database_unavailable`
   */
  async preview(target: ExportTarget, form: ExportForm, limit: number): Promise<ExportPreview> {
    const now = this.#clock.now();
    const scope = await this.#scope(target, now);
    const { mask, masked } = this.#personal;
    const encoder = this.#encoder(scope, form, now, masked);
    const shown = masked ? mask : SHOWN.mask;
    const rows: ExportRow[] = [];
    const sampled = { conversations: 0, messages: 0 };
    let bytes = 0;
    for await (const parts of this.#source.read(scope)) {
      for (const part of parts) rows.push(...rowsOf(part, limit - rows.length, shown));
      for (const piece of encoded(encoder, parts, sampled, true)) bytes += Buffer.byteLength(piece);
      if (rows.length >= limit && sampled.messages >= Math.min(limit, SAMPLE)) break;
    }
    const total = await this.#source.count(scope);
    const frame = Buffer.byteLength(encoder.opening() + encoder.closing(total));
    return { rows, estimate: { ...total, bytes: Math.round(frame + bytes * ratio(total, sampled)) } };
  }

  /**
   * What a job exports, fixed when it begins. What there is is counted, which `signal` breaks off.
   * @throws AppError `database_unavailable`
   */
  async fixScope({ filter, since }: ExportRequest, signal?: AbortSignal): Promise<JobScope> {
    const exportedAt = this.#clock.now();
    // The cursor first: what comes between the two is told twice rather than never.
    const cursor = await this.#source.cursor(exportedAt);
    const scope = await this.#source.scope(filter, null, this.#retention.activeSince(exportedAt), since);
    const total = await this.#source.count(scope, signal);
    return { scope, exportedAt, cursor, ...total, masked: this.#personal.masked };
  }

  /** The text of a job's file from its checkpoint on. */
  async *jobText(
    { format, raw }: ExportRequest,
    { scope, exportedAt, masked = false }: JobScope,
    from: ExportCheckpoint,
  ): AsyncGenerator<JobText> {
    const encoder = this.#encoder(scope, { format, raw }, exportedAt, masked);
    const counts = { conversations: from.conversations, messages: from.messages };
    const ids = { first: from.firstMessageId, last: from.lastMessageId };
    let { position, deleted } = from;
    const state = () => ({
      ...from,
      ...counts,
      deleted,
      position,
      firstMessageId: ids.first,
      lastMessageId: ids.last,
    });
    if (from.bytes === 0) {
      yield { text: encoder.opening(), state: state(), resumable: false };
      for await (const page of scope.since
        ? this.#source.deletions(scope.since, scope.filter.owner ?? null)
        : []) {
        const text = encoder.deletions(page, deleted === 0);
        deleted += page.length;
        yield { text, state: state(), resumable: false };
      }
    }
    const pages = noted(this.#source.read(scope, position), ids);
    for await (const piece of this.#throttle.throttle(exportText(pages, encoder, counts, deleted === 0))) {
      position = piece.position ?? position;
      yield { text: piece.text, state: state(), resumable: piece.position !== null };
    }
    yield { text: encoder.closing({ ...counts, deleted }), state: state(), resumable: false };
  }

  /** What proves the file that `jobText` has made. */
  async manifest(job: ExportJob, whole: ExportCheckpoint, sha256: string): Promise<ExportManifest> {
    const { request, startedAt, scope } = job;
    const { from, to, role, status } = request.filter;
    const time = (at: Instant | null) => (at === null ? null : new Date(at).toISOString());
    const now = this.#clock.now();
    return {
      format: request.format,
      csv: request.format === 'csv' ? (request.raw ? 'raw' : 'escaped') : null,
      compression: request.compression,
      filter: {
        ...{ start_date: time(from), end_date: time(to), role, status },
        ...(request.since && { since: time(request.since.at) }),
      },
      conversations: whole.conversations,
      messages: whole.messages,
      deleted: whole.deleted,
      bytes: whole.bytes,
      sha256,
      first_message_id: whole.firstMessageId,
      last_message_id: whole.lastMessageId,
      started_at: new Date(startedAt ?? now).toISOString(),
      finished_at: new Date(now).toISOString(),
      cursor: scope ? await this.#cursors.encode(scope.cursor) : '',
      ...(scope?.masked && { pii_masked: true }),
    };
  }

  #scope(target: ExportTarget, now: Instant): Promise<ExportScope> {
    const activeSince = this.#retention.activeSince(now);
    return target.conversationId === undefined
      ? this.#source.scope(target.filter, null, activeSince)
      : this.#source.scope(EVERYTHING, target.conversationId, activeSince);
  }

  #encoder(scope: ExportScope, form: ExportForm, now: Instant, masked: boolean): ExportEncoder {
    const encoder = this.#plainEncoder(scope, form, now, masked);
    return masked ? masking(encoder, this.#personal.mask) : encoder;
  }

  #plainEncoder(
    scope: ExportScope,
    { format, raw }: ExportForm,
    now: Instant,
    masked: boolean,
  ): ExportEncoder {
    switch (format) {
      case 'csv':
        return csvEncoder(this.#csv, raw);
      case 'ndjson':
        return ndjsonEncoder(this.#retention);
      case 'json':
        return jsonEncoder(this.#retention, {
          ...scope,
          exportedAt: now,
          since: scope.since?.at ?? null,
          masked,
        });
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
    const pieces = exportText(this.#source.read(scope), encoder, counts, true);
    for await (const { text } of this.#throttle.throttle(pieces)) {
      if (text !== '') yield Buffer.from(text);
    }
    const closing = encoder.closing(counts);
    if (closing !== '') yield Buffer.from(closing);
  }
}

/** A piece of a job's file, and what the job has behind itself with it. */
export interface JobText {
  readonly text: string;
  /** Its `bytes` are for the writer of the file to say. */
  readonly state: ExportCheckpoint;
  /** Whether another process could go on from here. */
  readonly resumable: boolean;
}

/** Notes the ids of the first and the last message. */
async function* noted(
  pages: AsyncIterable<readonly ExportPart[]>,
  ids: { first: string | null; last: string | null },
): AsyncGenerator<readonly ExportPart[]> {
  for await (const parts of pages) {
    for (const { messages } of parts) {
      ids.first ??= messages[0]?.uid ?? null;
      ids.last = messages.at(-1)?.uid ?? ids.last;
    }
    yield parts;
  }
}

/** How many times as much as the sample there is. */
function ratio(total: ExportCounts, sampled: ExportCounts): number {
  if (sampled.messages > 0) return total.messages / sampled.messages;
  return sampled.conversations > 0 ? total.conversations / sampled.conversations : 0;
}

/** @param shown what is shown of a content */
function rowsOf(
  { conversation, messages, begins, ends }: ExportPart,
  limit: number,
  shown: (content: string) => string,
): ExportRow[] {
  const { id: conversation_id, createdAt: created_at, lastActive: last_active } = conversation;
  const head = { conversation_id, created_at, last_active };
  const none = { message_id: null, role: null, content: null, timestamp: null, status: null };
  if (messages.length === 0) return begins && ends && limit > 0 ? [{ ...head, ...none }] : [];
  return messages.slice(0, limit).map(({ uid, role, content, timestamp, status }) => {
    return { ...head, message_id: uid, role, content: shown(content), timestamp, status };
  });
}
