import type { Compression, ExportFormat } from '../../domain/exports/jobs.ts';

const FORMATS = {
  json: 'application/json',
  csv: 'text/csv; charset=utf-8',
  ndjson: 'application/x-ndjson',
} as const;
const COMPRESSIONS = { none: null, gzip: 'application/gzip', zstd: 'application/zstd' } as const;

/** The `Content-Type` of an export file. */
export function mediaTypeOf(format: ExportFormat, compression: Compression = 'none'): string {
  return COMPRESSIONS[compression] ?? FORMATS[format];
}
