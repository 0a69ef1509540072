import type { Request, Response } from 'express';
import { AppError } from '../../domain/errors.ts';

export interface StoredFile {
  readonly folder: string;
  readonly name: string;
  readonly type: string;
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

/** Header fields of the file, which a problem response must not carry. `Content-Range` stays. */
const FILE_HEADERS = ['Accept-Ranges', 'Content-Type', 'ETag', 'Repr-Digest', 'Content-Disposition'];

/**
 * Sends an immutable file, whole or one range of it; for several ranges the whole file. A client that leaves is not
 * an error. When reading fails after the first byte, the connection is broken.
 */
export function sendFile(request: Request, response: Response, file: StoredFile): Promise<void> {
  const etag = `"${file.sha256}"`;
  response.setHeader('Content-Type', file.type);
  response.setHeader('ETag', etag);
  response.setHeader('Repr-Digest', `sha-256=:${Buffer.from(file.sha256, 'hex').toString('base64')}:`);
  response.setHeader('Content-Disposition', `attachment; filename="export-${file.name}"`);
  response.setHeader('Cache-Control', 'private, no-cache');
  // The `send` package accepts a weak tag in If-Range, which RFC 9110 (13.1.5) does not allow.
  const { 'if-range': tag } = request.headers;
  if (tag !== undefined && tag !== etag) delete request.headers.range;
  // It also accepts one in If-Match, where no weak tag matches (13.1.1).
  const { 'if-match': tags } = request.headers;
  if (tags !== undefined) request.headers['if-match'] = tags.replace(/W\/"[^"]*"/g, '""');
  // A suffix longer than the file means the whole file, but `send` answers 416.
  const [, last] = /^bytes=-(\d{1,15})$/.exec(request.headers.range ?? '') ?? [];
  if (Number(last) > file.bytes) request.headers.range = 'bytes=0-';
  const options = { root: file.folder, dotfiles: 'allow', cacheControl: false, lastModified: false } as const;
  return new Promise((resolve, reject) => {
    response.sendFile(file.name, options, (error: (Error & { status?: number }) | undefined) => {
      if (!error) return resolve();
      if (response.headersSent || response.destroyed) {
        response.destroy();
        return resolve();
      }
      for (const name of FILE_HEADERS) response.removeHeader(name);
      reject(classifyError(error));
    });
  });
}

function classifyError(error: Error & { status?: number }): Error {
  switch (error.status) {
    case 404:
      return new AppError('export_not_found', 'The file of this export does not exist any more');
    case 412:
      return new AppError(
        'precondition_failed',
        'The ETag of the file does not match If-Match; download it again',
      );
    case 416:
      return new AppError('range_not_satisfiable', 'The range must begin before the end of the file');
    default:
      return error;
  }
}
