import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync, readSync } from 'node:fs';
import { rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { LogDestination } from '../../src/log-destination.ts';
import { createLogger, type Logger } from '../../src/logger.ts';
import { until } from '../support/chat-server.ts';
import { smallDisk } from '../support/small-disk.ts';

const folder = mkdtempSync(join(tmpdir(), 'chat-log-'));
after(() => rm(folder, { recursive: true, force: true }));

const open = (file: string, level = 'info'): { destination: LogDestination; log: Logger } => {
  const destination = new LogDestination({ file });
  return { destination, log: createLogger({ level, file }, () => ({}), destination) };
};
const numbersIn = (text: string): number[] =>
  text
    .split('\n')
    .flatMap((line) => (line.startsWith('{') ? [JSON.parse(line).n ?? JSON.parse(line).count] : []));

describe('a log destination', () => {
  it('writes every line in order, also at the end of the process', async () => {
    const file = join(folder, 'whole.log');
    const { destination, log } = open(file);
    for (let n = 0; n < 1000; n++) log.info({ n, more: '字'.repeat(30) }, 'line');
    await until('the first lines', () => readFileSync(file, 'utf8').includes('"n":999'));
    for (let n = 1000; n < 2000; n++) log.info({ n }, 'line');
    log.flush();
    await new Promise(setImmediate);
    await until('the end', () => {
      destination.exit();
      return readFileSync(file, 'utf8').endsWith('"n":1999,"msg":"line"}\n');
    });
    assert.deepEqual(numbersIn(readFileSync(file, 'utf8')), [...Array(2000).keys()]);
  });

  it('is opened again after the file was renamed; a failure keeps the old file', async () => {
    const file = join(folder, 'rotated.log');
    const { destination, log } = open(file);
    log.info({ n: 1 }, 'line');
    destination.flushSync();
    await rename(file, `${file}.1`);
    log.info({ n: 2 }, 'line');
    destination.flushSync();
    destination.reopen();
    log.info({ n: 3 }, 'line');
    destination.flushSync();
    assert.deepEqual(numbersIn(readFileSync(`${file}.1`, 'utf8')), [1, 2]);
    assert.deepEqual(numbersIn(readFileSync(file, 'utf8')), [3]);
    await rename(file, `${file}.2`);
    mkdirSync(file);
    assert.throws(() => destination.reopen(), { code: 'EISDIR' });
    log.info({ n: 4 }, 'line');
    destination.flushSync();
    assert.deepEqual(numbersIn(readFileSync(`${file}.2`, 'utf8')), [3, 4]);
    await rmdir(file);
  });

  it('rejects what cannot be opened with the error of the system', async () => {
    const file = join(folder, 'file');
    await writeFile(file, '');
    assert.throws(() => new LogDestination({ file: folder }), { code: 'EISDIR' });
    assert.throws(() => new LogDestination({ file: join(file, 'a.log') }), { code: /ENOTDIR|EEXIST/ });
  });
});

if (process.platform === 'linux' && process.getuid?.() === 0) {
  describe('a log on a full disk', () => {
    for (const level of ['info', 'error']) {
      it(`drops and counts lines, and continues when there is space: level ${level}`, async (t) => {
        const disk = smallDisk(64);
        assert(disk);
        t.after(() => disk.remove());
        const file = join(disk.folder, 'full.log');
        const ballast = join(disk.folder, 'ballast');
        const { destination, log } = open(file, level);
        await writeFile(ballast, Buffer.alloc(60_000));
        const warnings = t.mock.method(process.stderr, 'write', () => true).mock;
        for (let n = 0; n < 500; n++) log.error({ n, more: 'x'.repeat(100) }, 'line');
        await until('a failure', () => {
          log.error({ n: 500 }, 'line');
          return warnings.callCount() > 0;
        });
        const began = performance.now();
        destination.exit();
        assert(performance.now() - began < 1000, 'the exit waited');
        assert.match(String(warnings.calls[0]?.arguments[0]), /^Log lines cannot be written to .*ENOSPC/);
        await rm(ballast);
        await until('lines again', () => {
          log.error({ n: 9999 }, 'line');
          return readFileSync(file, 'utf8').includes('"n":9999');
        });
        const text = readFileSync(file, 'utf8');
        assert.equal(warnings.callCount(), 1);
        if (level === 'info') {
          const report = JSON.parse(
            text.split('\n').find((line) => line.includes('log lines dropped')) ?? '{}',
          );
          assert(report.count > 0);
        }
      });
    }
  });
}

if (process.platform === 'linux') {
  describe('a log to a pipe', () => {
    const { O_RDONLY, O_NONBLOCK } = constants;

    it('waits for a reader, and drops and counts lines that a slow one does not take', async () => {
      const file = join(folder, 'pipe');
      spawnSync('mkfifo', [file]);
      const { destination, log } = open(file);
      log.info({ n: 0 }, 'line');
      destination.flushSync();
      const reader = openSync(file, O_RDONLY | O_NONBLOCK);
      let text = '';
      const read = () => {
        const block = Buffer.alloc(65536);
        try {
          for (let size = readSync(reader, block); size > 0; size = readSync(reader, block))
            text += block.toString('utf8', 0, size);
        } catch {
          // Nothing there at the moment.
        }
      };
      await until('the first lines', () => {
        log.info({ n: 1 }, 'line');
        read();
        return text.includes('"n":1');
      });
      // There is no reader: more than the pipe and the buffer hold.
      const before = text.length;
      for (let n = 0; n < 2000; n++) log.info({ n: 2, more: 'x'.repeat(1000) }, 'line');
      const began = performance.now();
      destination.exit();
      assert(performance.now() - began < 1000, 'the exit waited');
      let lines: { n?: number; count?: number }[] = [];
      await until('all lines or their count', () => {
        read();
        lines = text
          .slice(before)
          .split('\n')
          .slice(0, -1)
          .map((line) => JSON.parse(line));
        const dropped = lines.reduce((sum, { count = 0 }) => sum + count, 0);
        return dropped > 0 && lines.filter(({ n }) => n === 2).length + dropped === 2000;
      });
      closeSync(reader);
      // The reader has gone: EPIPE.
      log.info({ n: 3 }, 'line');
      destination.exit();
    });
  });
}
