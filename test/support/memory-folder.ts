/** A folder in memory for the temporary files of a test run. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';

/** Where Linux keeps files in memory. */
const PLACE = '/dev/shm';
/** How much must be free; the tests need a fraction of it. */
const LEAST_BYTES = 8 * 2 ** 30;
/** Followed by the id of the process. */
const NAME = 'chat-tests-';

/**
 * Makes the folder. In memory no commit waits for a disk, and files outlive a killed process as on a disk. Undefined
 * where there is too little memory, or where programs cannot be run from it.
 */
export function memoryFolder(): string | undefined {
  const mounts = existsSync('/proc/mounts') ? readFileSync('/proc/mounts', 'utf8').split('\n') : [];
  const mount = mounts.find((line) => line.split(' ')[1] === PLACE);
  if (mount === undefined || /\b(noexec|ro)\b/.test(mount)) return undefined;
  for (const name of readdirSync(PLACE)) {
    const pid = name.slice(NAME.length);
    // Of a run that was killed, also of one that had the id of this process.
    if (name.startsWith(NAME) && (pid === String(process.pid) || !existsSync(`/proc/${pid}`)))
      removeMemoryFolder(join(PLACE, name));
  }
  const { bavail, bsize } = statfsSync(PLACE);
  if (bavail * bsize < LEAST_BYTES) return undefined;
  const folder = join(PLACE, `${NAME}${process.pid}`);
  mkdirSync(folder, { recursive: true });
  // Some tests run programs as another user.
  chmodSync(folder, 0o1777);
  return folder;
}

/** Leaves a folder in which a disk is mounted or to which a process still writes. */
export function removeMemoryFolder(folder: string): void {
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch (error) {
    process.stderr.write(`${folder} stays: ${error}\n`);
  }
}
