import type { Request, Response } from 'express';
import { AppError } from '../domain/errors.ts';

export interface StoredFile {
  readonly folder: string;
  readonly name: string;
  readonly type: string;
  /** Hexadecimal. */
  readonly sha256: string;
}

/**
 * Sends a file that never changes, whole or in ranges. A client that leaves is no fault; one that is there while the
 * file breaks off sees a broken connection.
 */
export function sendFile(request: Request, response: Response, file: StoredFile): Promise<void> {
  response.setHeader('Content-Type', file.type);
  response.setHeader('ETag', `"${file.sha256}"`);
  response.setHeader('Repr-Digest', `sha-256=:${Buffer.from(file.sha256, 'hex').toString('base64')}:`);
  response.setHeader('Content-Disposition', `attachment; filename="export-${file.name}"`);
  const options = { root: file.folder, dotfiles: 'allow', cacheControl: false, lastModified: false } as const;
  response.setHeader('Cache-Control', 'private, no-cache');
  return new Promise((resolve, reject) => {
    response.sendFile(
      file.name,
      options,
      (error: (Error & { status?: number; code?: string }) | undefined) => {
        if (!error || response.headersSent || request.destroyed) return resolve();
        for (const name of ['Content-Type', 'ETag', 'Repr-Digest', 'Content-Disposition'])
          response.removeHeader(name);
        reject(faultOf(error));
      },
    );
  });
}

function faultOf(error: Error & { status?: number }): Error {
  if (error.status === 416)
    return new AppError('range_not_satisfiable', 'The range lies beyond the end of the file');
  if (error.status === 404)
    return new AppError('export_not_found', 'The file of this export is not here (any more)');
  return error;
}
