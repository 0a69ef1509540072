import { closeSync, fsyncSync, openSync } from 'node:fs';

/** @throws the system's error */
export function syncToDisk(path: string): void {
  const file = openSync(path, 'r+');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
