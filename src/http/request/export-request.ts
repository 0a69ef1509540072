import type { Instant } from '../../domain/conversations/conversation.ts';
import type { ExportCursor, ExportFilter } from '../../domain/exports/exports.ts';
import type { ExportRequest } from '../../domain/exports/jobs.ts';
import type { ExportRequestBody } from '../schemas/export-jobs.ts';

/** How long a cursor is valid, because deletions are remembered for so long. */
export const CURSOR_DAYS = 30;

export function isTooOld({ at }: ExportCursor, now: Instant): boolean {
  return at < now - CURSOR_DAYS * 86_400_000;
}

type FilterFields = Partial<
  Pick<ExportRequestBody, 'start_date' | 'end_date' | 'role' | 'status' | 'rating'>
>;

/** @param owner whose conversations to export; null: those of all owners */
export function exportFilterOf(fields: FilterFields, owner: string | null): ExportFilter {
  return {
    owner,
    from: fields.start_date ?? null,
    to: fields.end_date ?? null,
    role: fields.role ?? null,
    status: fields.status ?? null,
    ...(fields.rating && { rating: fields.rating }),
  };
}

/**
 * @param owner as for {@link exportFilterOf}
 * @param since the decoded cursor of the body
 */
export function exportRequestOf(
  body: ExportRequestBody,
  owner: string | null,
  since: ExportCursor | null,
): ExportRequest {
  return {
    format: body.format,
    raw: body.csv === 'raw',
    ...(body.summary && { summary: true }),
    compression: body.compression,
    filter: exportFilterOf(body, owner),
    since,
    notify: { email: body.notify?.email ?? null, webhook: body.notify?.webhook ?? null },
  };
}
