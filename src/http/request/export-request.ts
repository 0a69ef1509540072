import type { Instant } from '../../domain/conversation.ts';
import type { ExportRequest } from '../../domain/export-jobs.ts';
import type { ExportCursor } from '../../domain/exports.ts';
import type { ExportRequestBody } from '../schemas/export-jobs.ts';

/** How long a cursor is good: so long it is known what was deleted. */
export const CURSOR_DAYS = 30;

export function isTooOld({ at }: ExportCursor, now: Instant): boolean {
  return at < now - CURSOR_DAYS * 86_400_000;
}

/**
 * What the body asks for.
 * @param owner whose conversations; null: everybody's
 * @param since the cursor that the body names
 */
export function exportRequestOf(
  body: ExportRequestBody,
  owner: string | null,
  since: ExportCursor | null,
): ExportRequest {
  return {
    format: body.format,
    raw: body.csv === 'raw',
    compression: body.compression,
    filter: {
      owner,
      from: body.start_date ?? null,
      to: body.end_date ?? null,
      role: body.role ?? null,
      status: body.status ?? null,
    },
    since,
    notify: { email: body.notify?.email ?? null, webhook: body.notify?.webhook ?? null },
  };
}
