import { isBusy, openLockFile } from '../journal/file.ts';
import type { Unlock } from './dialect.ts';

/**
 * Takes the lock that a file stands for, among all processes of this host; null when another holds it. It goes with
 * the process, however that ends.
 * @throws the driver's error
 */
export function takeFileLock(path: string): Unlock | null {
  const file = openLockFile(path);
  try {
    file.exec('BEGIN EXCLUSIVE');
  } catch (error) {
    file.close();
    if (isBusy(error)) return null;
    throw error;
  }
  return async () => {
    file.close();
  };
}
