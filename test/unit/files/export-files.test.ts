import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import type { Compression, ExportFileWriter, ExportRequest } from '../../../src/domain/exports/jobs.ts';
import { createExportFiles } from '../../../src/files/export-files.ts';

const folder = mkdtempSync(join(tmpdir(), 'chat-files-'));
after(() => rm(folder, { recursive: true, force: true }));

const requestOf = (compression: Compression): ExportRequest => ({
  format: 'ndjson',
  raw: false,
  compression,
  filter: { owner: null, from: null, to: null, role: null, status: null },
  since: null,
  notify: { email: null, webhook: null },
});
const UNPACK = { none: (bytes: Buffer) => bytes, gzip: gunzipSync, zstd: zstdDecompressSync };
const files = createExportFiles(join(folder, 'exports'));
const namesOf = async (id: string) =>
  (await readdir(join(folder, 'exports'))).filter((name) => name.startsWith(id));

async function opened(id: string, compression: Compression, bytes: number): Promise<ExportFileWriter> {
  const file = await files.open(id, requestOf(compression), bytes);
  assert(file);
  return file;
}

async function textOf(id: string, compression: Compression, digest: string): Promise<string> {
  const place = await files.find(id, requestOf(compression));
  assert(place);
  const bytes = await readFile(join(place.folder, place.name));
  assert.equal(createHash('sha256').update(bytes).digest('hex'), digest);
  return UNPACK[compression](bytes).toString();
}

describe('files of exports', () => {
  for (const compression of ['none', 'gzip', 'zstd'] as const) {
    const long = '好 "text" '.repeat(300_000);

    it(`are resumed after the synced bytes, and are one frame to every reader: ${compression}`, async () => {
      const id = crypto.randomUUID();
      const first = await opened(id, compression, 0);
      await first.write(long);
      const sure = await first.sync();
      assert.equal(sure, Buffer.byteLength(long));
      await first.write('of this nothing is left');
      await first.close();

      const second = await opened(id, compression, sure);
      assert.equal(second.bytes, sure);
      await second.write('end');
      assert.equal(await files.find(id, requestOf(compression)), null);
      const { bytes, sha256 } = await second.finish();
      await second.close();
      const text = await textOf(id, compression, sha256);
      assert(text === `${long}end`);
      assert(compression === 'none' || bytes < sure / 10);
      assert.equal((await namesOf(id)).length, 1);
    });

    it(`are not damaged by a process whose lease expired: ${compression}`, async () => {
      const id = crypto.randomUUID();
      const slow = await opened(id, compression, 0);
      await slow.write('both ');
      const sure = await slow.sync();
      await slow.write('what the slow one says');

      const quick = await opened(id, compression, sure);
      await slow.sync();
      await quick.write('what the quick one says');
      await quick.sync();
      await assert.rejects(slow.finish(), /another process/);
      const { sha256 } = await quick.finish();
      await slow.write(' and more');
      await slow.sync();
      await assert.rejects(slow.finish());
      await Promise.all([slow.close(), quick.close()]);
      assert.equal(await textOf(id, compression, sha256), 'both what the quick one says');
      assert.equal((await namesOf(id)).length, 1);
    });
  }

  it('start again when the part is shorter or missing', async () => {
    const id = crypto.randomUUID();
    assert.equal(await files.open(id, requestOf('none'), 10), null);
    const file = await opened(id, 'none', 0);
    await file.write('12345');
    const five = await file.sync();
    await file.close();
    assert.equal(await files.open(id, requestOf('none'), five + 1), null);
    assert.deepEqual(await namesOf(id), [`${id}.part`]);
  });

  it('remove the files of killed attempts', async () => {
    const id = crypto.randomUUID();
    const file = await opened(id, 'none', 0);
    await file.close();
    await writeFile(join(folder, 'exports', `${id}.${crypto.randomUUID()}.part`), 'half');
    const again = await opened(id, 'none', 0);
    await again.close();
    assert.deepEqual(await namesOf(id), [`${id}.part`]);
  });

  it('stop compressing when aborted, and keep the text', async () => {
    const id = crypto.randomUUID();
    const file = await opened(id, 'gzip', 0);
    await file.write('some text');
    await assert.rejects(file.finish(AbortSignal.abort()), { name: 'AbortError' });
    await file.close();
    assert.deepEqual(await namesOf(id), [`${id}.part`]);
  });
});
