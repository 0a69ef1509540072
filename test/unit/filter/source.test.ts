import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { openWordSource, WordListError, type WordSource } from '../../../src/filter/index.ts';
import { silentLog } from '../../support/fakes.ts';

const LOOK_EVERY_MS = 5;
const PATIENCE_MS = 30_000;

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!condition()) {
    assert.ok(performance.now() < deadline, 'it never came');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

const masked = (source: WordSource, text: string) => source.filters.text.whole(text, 'mask').text;

async function opened(t: TestContext, content: string) {
  const folder = await mkdtemp(join(tmpdir(), 'words-'));
  const path = join(folder, 'words.txt');
  await writeFile(path, content);
  const errors: string[] = [];
  const log = { ...silentLog, error: (_fields: object, message: string) => void errors.push(message) };
  const source = await openWordSource(path, log, LOOK_EVERY_MS);
  t.after(async () => {
    await source.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return { path, source, errors };
}

describe('a polled word list', () => {
  it('is reloaded when it has changed; running streams keep the old one', async (t) => {
    const { path, source } = await opened(t, 'old\n');
    const running = source.filters.text.stream('mask');
    await writeFile(path, 'brand new\n');
    await until(() => masked(source, 'old, brand new') === 'old, *********');
    assert.equal(running.push('old, brand new'), '***, brand new');
  });

  it('keeps the previous list while the file is invalid, logs it once, and recovers', async (t) => {
    const { path, source, errors } = await opened(t, 'old\n');
    await writeFile(path, Buffer.from([0xff, 0xfe, 0x41]));
    await until(() => errors.length > 0);
    await new Promise((resolve) => setTimeout(resolve, 20 * LOOK_EVERY_MS));
    assert.equal(errors.length, 1);
    assert.equal(masked(source, 'old'), '***');
    await writeFile(path, 'mended\n');
    await until(() => masked(source, 'mended') === '******');
  });

  it('keeps the previous list while the file is missing, and recovers with the same file', async (t) => {
    const { path, source, errors } = await opened(t, 'old\n');
    await rm(path);
    await until(() => errors.length === 1);
    assert.equal(masked(source, 'old'), '***');
    await writeFile(path, 'another\n');
    await until(() => masked(source, 'another') === '*******');
    assert.equal(errors.length, 1);
  });

  it('is not polled after stop()', async (t) => {
    const { path, source } = await opened(t, 'old\n');
    await source.stop();
    const { filters } = source;
    await writeFile(path, 'brand new\n');
    await new Promise((resolve) => setTimeout(resolve, 20 * LOOK_EVERY_MS));
    assert.equal(source.filters, filters);
  });

  it('must be valid at the first load', async () => {
    await assert.rejects(openWordSource(join(tmpdir(), 'no-such-list.txt'), silentLog), WordListError);
  });
});
