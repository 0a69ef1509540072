/**
 * Importing this module makes Node keep compiled code on disk, which halves the CPU time of a start. Imports that
 * the entry module makes statically are compiled before, so load this with `--import` or import the rest dynamically.
 * NODE_COMPILE_CACHE names another folder, NODE_DISABLE_COMPILE_CACHE=1 turns the cache off.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { constants, enableCompileCache } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const { status } = enableCompileCache(join(import.meta.dirname, '../node_modules/.cache/compile-cache'));
if (status === constants.compileCacheStatus.FAILED) {
  const folder = privateTemporaryFolder();
  if (folder !== undefined) enableCompileCache(folder);
}

/** For an installation that the user of the process cannot write to. Other users must not be able to plant code in it. */
function privateTemporaryFolder(): string | undefined {
  const uid = process.getuid?.();
  if (uid === undefined) return undefined;
  const folder = join(tmpdir(), `chat-api-server-cache-${uid}`);
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch {
    // It exists, or cannot be created.
  }
  try {
    const found = lstatSync(folder);
    return found.isDirectory() && found.uid === uid && (found.mode & 0o077) === 0 ? folder : undefined;
  } catch {
    return undefined;
  }
}
