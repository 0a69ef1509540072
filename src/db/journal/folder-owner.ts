import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode } from '../../domain/errors.ts';

const FILE = 'database.txt';

/** The folder belongs to another database. */
export class ForeignFolderError extends Error {
  constructor(owner: string, file: string) {
    super(
      `it holds turns, or a running server, of another database (${owner}). Give each database a DATA_DIR of its own; ` +
        `if this is the same database under another name, remove ${file}`,
    );
    this.name = 'ForeignFolderError';
  }
}

/**
 * Records whose journal and export files are in the folder: replayed into another database, or removed by its server,
 * they would be lost.
 * @param database its name, without user and password
 * @param isInUse whether the folder has anything of the database that is recorded
 * @throws ForeignFolderError; the system's error
 */
export function claimFolder(folder: string, database: string, isInUse: () => boolean): void {
  const file = join(folder, FILE);
  const owner = readOwner(file);
  if (owner === database) return;
  if (owner !== undefined && isInUse()) throw new ForeignFolderError(owner, file);
  try {
    writeFileSync(file, `${database}\n`, owner === undefined ? { flag: 'wx' } : {});
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    // Another process was faster.
    claimFolder(folder, database, isInUse);
  }
}

function readOwner(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
