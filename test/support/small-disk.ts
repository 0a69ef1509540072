/** Small disks, which a test can fill. Only root on Linux can create them; elsewhere these tests are skipped. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The expected error, for `assert.rejects`. */
export const FULL = { code: 'ENOSPC' };

export interface SmallDisk {
  readonly folder: string;
  remove(): void;
}

/** An empty disk of this size; undefined if none can be created. */
export function smallDisk(kilobytes: number): SmallDisk | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'chat-disk-'));
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${kilobytes}k`, 'tmpfs', folder]);
  const remove = () => {
    if (status === 0) spawnSync('umount', ['--lazy', folder]);
    rmdirSync(folder);
  };
  if (status === 0) return { folder, remove };
  remove();
  return undefined;
}
