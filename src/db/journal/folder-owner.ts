import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode } from '../../domain/errors.ts';

const FILE = 'database.txt';

/** DATA_DIR is in use by another database. */
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
 * Records in the folder to which database its journal and export files belong. They would be lost if the journal were
 * replayed into another database, or if the server of another database removed the files.
 * @param database its name, without user and password
 * @param isInUse whether the folder has turns or a running server of the recorded database
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
