/** Row "Disk full". Needs a small disk, which only root on Linux can make; elsewhere there is nothing to test on. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { balance } from '../support/balance.ts';
import { ask, stream } from '../support/caller.ts';
import { until } from '../support/chat-server.ts';
import { startCluster } from '../support/cluster.ts';
import { Ledger } from '../support/ledger.ts';
import { query } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

/** An empty disk of four megabytes; undefined where none can be made. */
function smallDisk(): string | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'chat-disk-'));
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', folder]);
  if (status === 0) return folder;
  rmdirSync(folder);
  return undefined;
}

function unmount(folder: string): void {
  spawnSync('umount', [folder]);
  rmdirSync(folder);
}

const disk = smallDisk();
if (disk !== undefined) {
  describe('a full disk', () => {
    it('ends no stream and no process: new questions are rejected, reads work, and everything works again when there is space', async (t) => {
      const cluster = await startCluster(
        1,
        {},
        { DATA_DIR: disk },
        { file: join(disk, 'chat.sqlite') },
      ).catch((error: unknown) => {
        unmount(disk);
        throw error;
      });
      t.after(async () => {
        await cluster.close();
        unmount(disk);
      });
      const { url } = cluster.at(0);
      const ledger = Object.assign(new Ledger(), { databaseWasAway: true });
      const before = ledger.add(question({ pieces: 10, pace: 1 }));
      assert.equal(await ask(url, before), 'ended');
      const running = Array.from({ length: 3 }, () => {
        const entry = ledger.add(question({ pieces: 150, pace: 10 }));
        return [entry, stream(url, entry)] as const;
      });
      await until('the streams', () => running.every(([{ shown }]) => shown.length > 100));
      const full = performance.now();
      fill(join(disk, 'ballast'));

      const refused = await until('a refusal', async () => {
        const entry = ledger.add(question({ pieces: 1, pace: 0 }));
        await ask(url, entry);
        return entry.refusals[0];
      });
      assert.match(String(refused), /^(503|507)$/);
      const read = await fetch(`${url}/api/conversations/${before.conversationId}`);
      assert.equal(read.status, 200);
      assert.match(await read.text(), /"status":"complete"/);
      for (const [entry, outcome] of running) {
        assert.equal(await outcome, 'ended');
        // Whole in any case; whether it can be kept is what its end says.
        assert.equal(entry.shown, entry.expected);
        Object.assign(entry, { mayBreak: true, unwritableSince: full });
      }
      assert.equal((await fetch(`${url}/health`)).status, 200);

      rmSync(join(disk, 'ballast'));
      await until(
        'an answer',
        async () => (await ask(url, ledger.add(question({ pieces: 2, pace: 0 })))) === 'ended',
      );
      await balance(ledger, cluster.place);
      assert.deepEqual(await query(cluster.place, 'PRAGMA integrity_check'), [{ integrity_check: 'ok' }]);
    });
  });
}

/** Writes until nothing fits any more, in ever smaller pieces. */
function fill(file: string): void {
  for (let size = 1 << 20; size >= 512; size >>= 1) {
    for (;;) {
      try {
        writeFileSync(file, Buffer.alloc(size), { flag: 'a' });
      } catch {
        break;
      }
    }
  }
}
