/** Where Linux keeps files in memory, how much must be free there (the tests need a fraction of it), and the names. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';

const PLACE = '/dev/shm';
const LEAST_BYTES = 8 * 2 ** 30;
const NAME = 'chat-tests-';

/**
 * A temporary folder in memory: on a disk every commit waits, and what a killed process has written is there after it
 * in both. Undefined where there is none, or none that programs can be run from.
 */
export function memoryFolder(): string | undefined {
  const mounts = existsSync('/proc/mounts') ? readFileSync('/proc/mounts', 'utf8').split('\n') : [];
  const mount = mounts.find((line) => line.split(' ')[1] === PLACE);
  if (mount === undefined || /\b(noexec|ro)\b/.test(mount)) return undefined;
  for (const name of readdirSync(PLACE)) {
    // Of a run that was killed.
    if (name.startsWith(NAME) && !existsSync(`/proc/${name.slice(NAME.length)}`))
      removeMemoryFolder(join(PLACE, name));
  }
  const { bavail, bsize } = statfsSync(PLACE);
  if (bavail * bsize < LEAST_BYTES) return undefined;
  const folder = join(PLACE, `${NAME}${process.pid}`);
  mkdirSync(folder);
  // Some tests run programs as another user.
  chmodSync(folder, 0o1777);
  return folder;
}

/** What a disk is still mounted in, or a stray process writes to, stays. */
export function removeMemoryFolder(folder: string): void {
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch (error) {
    process.stderr.write(`${folder} stays: ${error}\n`);
  }
}
