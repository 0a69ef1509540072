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

/** What says something about the file and nothing about a problem document; `Content-Range` stays. */
const OF_THE_FILE = ['Accept-Ranges', 'Content-Type', 'ETag', 'Repr-Digest', 'Content-Disposition'];

/**
 * Sends a file that never changes, whole or in one range; of several ranges the whole. A client that leaves is no
 * fault; one that is there while the file breaks off sees a broken connection.
 */
export function sendFile(request: Request, response: Response, file: StoredFile): Promise<void> {
  const etag = `"${file.sha256}"`;
  response.setHeader('Content-Type', file.type);
  response.setHeader('ETag', etag);
  response.setHeader('Repr-Digest', `sha-256=:${Buffer.from(file.sha256, 'hex').toString('base64')}:`);
  response.setHeader('Content-Disposition', `attachment; filename="export-${file.name}"`);
  response.setHeader('Cache-Control', 'private, no-cache');
  // The sender below is content with a weak tag, which may not be trusted to put two parts together.
  const { 'if-range': other } = request.headers;
  if (other !== undefined && other !== etag) delete request.headers.range;
  // Of a part at the end that is longer than the file, it would say that there is none.
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
      for (const name of OF_THE_FILE) response.removeHeader(name);
      reject(faultOf(error));
    });
  });
}

function faultOf(error: Error & { status?: number }): Error {
  switch (error.status) {
    case 404:
      return new AppError('export_not_found', 'The file of this export is not here (any more)');
    case 412:
      return new AppError('precondition_failed', 'The file is not the one that If-Match names');
    case 416:
      return new AppError('range_not_satisfiable', 'The range lies beyond the end of the file');
    default:
      return error;
  }
}
