/** A folder in memory for the temporary files of a test run. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';

/** Where Linux keeps files in memory. */
const PLACE = '/dev/shm';
/** The free memory that is required; the tests use a fraction of it. */
const LEAST_BYTES = 8 * 2 ** 30;
/** The beginning of the folder's name, before the process id. */
const NAME = 'chat-tests-';

/**
 * Creates the folder. In memory a commit does not wait for a disk, and files still outlive a killed process. Undefined
 * if there is too little memory, or if programs cannot run from there.
 */
export function memoryFolder(): string | undefined {
  const mounts = existsSync('/proc/mounts') ? readFileSync('/proc/mounts', 'utf8').split('\n') : [];
  const mount = mounts.find((line) => line.split(' ')[1] === PLACE);
  if (mount === undefined || /\b(noexec|ro)\b/.test(mount)) return undefined;
  for (const name of readdirSync(PLACE)) {
    const pid = name.slice(NAME.length);
    // Removes folders of killed runs, even of one whose process id this process has now.
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

/** Removes the folder. Prints a message if that fails, as with a mounted disk or a process that still writes. */
export function removeMemoryFolder(folder: string): void {
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch (error) {
    process.stderr.write(`${folder} stays: ${error}\n`);
  }
}
