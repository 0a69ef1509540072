/** Parses the command line of an export. */
import { AppError } from '../../src/domain/errors.ts';
import type { ExportRequest } from '../../src/domain/exports/jobs.ts';
import { CURSOR_DAYS, exportRequestOf, isTooOld } from '../../src/http/request/export-request.ts';
import { check } from '../../src/http/request/validate.ts';
import { exportRequest } from '../../src/http/schemas/export-jobs.ts';
import type { CursorCodec } from '../../src/services/exports/cursor-codec.ts';
import { CommandError } from '../command.ts';

export const OPTIONS = {
  format: { type: 'string' },
  start: { type: 'string' },
  end: { type: 'string' },
  role: { type: 'string' },
  status: { type: 'string' },
  rating: { type: 'string' },
  csv: { type: 'string' },
  summary: { type: 'boolean' },
  compression: { type: 'string' },
  since: { type: 'string' },
  out: { type: 'string' },
  restart: { type: 'boolean' },
} as const;

type Values = { readonly [Name in keyof typeof OPTIONS]?: string | boolean | undefined };

const NAMES: Readonly<Record<string, string>> = { start_date: 'start', end_date: 'end' };
/** The option of a member of the body. */
const optionOf = (member: string) => `--${NAMES[member] ?? member}`;

/** Validates like POST /api/exports. @throws CommandError */
export async function readRequest(values: Values, cursors: CursorCodec): Promise<ExportRequest> {
  const { start: start_date, end: end_date, out: _, restart: __, ...others } = values;
  const given = { start_date, end_date, ...others };
  const body = checked(given);
  const cursor = body.since === undefined ? null : await cursors.decode(body.since);
  if (body.since !== undefined && !cursor) {
    throw new CommandError('--since must be the cursor of a manifest of this database');
  }
  if (cursor && isTooOld(cursor, Date.now())) {
    throw new CommandError(`--since is more than ${CURSOR_DAYS} days old: run a full export`);
  }
  return exportRequestOf(body, null, cursor);
}

function checked(given: object) {
  try {
    return check(exportRequest, given);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    const lines = (error.errors ?? []).map(
      ({ path, message }) => `${optionOf(path)} ${message.replace(/\b(?:start|end)_date\b/, optionOf)}`,
    );
    throw new CommandError(lines.join('\n'));
  }
}
