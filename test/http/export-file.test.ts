/** The file of an export job: whole, in parts, and gone on with after a cut. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, checkedProblem, startChat, until } from '../support/chat-server.ts';
import { store, storedConversation } from '../support/export-data.ts';
import { type Download, download, made, open, startJob } from '../support/export-jobs.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';

const HOUR = 3_600_000;

/** Runs curl as people do; its exit code. */
async function curl(...options: string[]): Promise<number | null> {
  const child = spawn('curl', ['-s', ...options], { env: { ...process.env, no_proxy: '*' } });
  const [code] = await once(child, 'close');
  return code;
}

function problemIn({ status, headers, bytes }: Download, expected: number, code: string) {
  assert.equal(status, expected, String(bytes));
  assert.match(headers['content-type'] ?? '', /^application\/problem\+json/);
  for (const name of ['etag', 'repr-digest', 'content-disposition', 'accept-ranges']) {
    assert.equal(headers[name], undefined, name);
  }
  return checkedProblem(JSON.parse(String(bytes)), expected, code, String(headers['x-request-id']));
}

describe('the file of an export', () => {
  let chat: ChatServer;
  let url: string;
  let whole: Download;
  let etag: string;
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-download-'));
    chat = await startChat({ DATA_DIR: join(folder, 'data') });
    const texts = Array.from({ length: 400 }, (_, n) => `message ${n} 你好 `.repeat(100));
    await store(chat.server.database, [storedConversation(Date.now() - HOUR, texts)]);
    const { job, file } = await made(chat.url, { format: 'csv' });
    whole = file;
    url = `${chat.url}/api/exports/${job.id}/file`;
    etag = String(whole.headers.etag);
  });
  after(async () => {
    await chat.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const size = () => whole.bytes.length;
  const part = (from: number, to: number) => whole.bytes.subarray(from, to + 1);
  const get = (headers: Record<string, string>, method?: string) => download(url, headers, method);
  const isWhole = ({ status, headers, bytes }: Download) => {
    assert.deepEqual([status, headers['content-range']], [200, undefined]);
    assert(bytes.equals(whole.bytes));
  };

  it('is sent with its length, a strong ETag and the digest of its manifest', async () => {
    const { sha256 } = JSON.parse(String((await download(url.replace(/file$/, 'manifest'))).bytes));
    const { headers } = whole;
    assert.equal(headers['content-length'], String(size()));
    assert.equal(headers.etag, `"${sha256}"`);
    assert.equal(headers['repr-digest'], `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`);
    assert.equal(headers['accept-ranges'], 'bytes');
    assert.equal(headers['cache-control'], 'private, no-cache');
    assert.equal(headers['last-modified'], undefined);
    // The compression is set by the job, not by the connection.
    const packed = await get({ 'accept-encoding': 'gzip, br, zstd' });
    assert.equal(packed.headers['content-encoding'], undefined);
    isWhole(packed);
  });

  it('answers HEAD with the same headers, of a range too', async () => {
    for (const [headers, status, length] of [
      [{}, 200, size()],
      [{ range: 'bytes=10-19' }, 206, 10],
    ] as const) {
      const head = await get(headers, 'HEAD');
      const { headers: expected } = await get(headers);
      assert.deepEqual([head.status, head.bytes.length], [status, 0]);
      assert.equal(head.headers['content-length'], String(length));
      for (const name of ['content-type', 'etag', 'repr-digest', 'content-range', 'content-disposition']) {
        assert.equal(head.headers[name], expected[name], name);
      }
    }
  });

  it('is sent in ranges', async () => {
    const last = size() - 1;
    for (const [range, from, to] of [
      ['bytes=0-0', 0, 0],
      ['bytes=100-199', 100, 199],
      [`bytes=${last}-`, last, last],
      ['bytes=5000-', 5000, last],
      [`bytes=7-${size() + 1000}`, 7, last],
      ['bytes=-10', last - 9, last],
      [`bytes=-${size() * 2}`, 0, last],
      ['bytes=0-9,10-19', 0, 19],
    ] as const) {
      const { status, headers, bytes } = await get({ range });
      assert.equal(status, 206, range);
      assert.equal(headers['content-range'], `bytes ${from}-${to}/${size()}`);
      assert.equal(headers['content-length'], String(to - from + 1));
      assert.equal(headers['repr-digest'], whole.headers['repr-digest']);
      assert(bytes.equals(part(from, to)), range);
    }
  });

  it('is sent whole unless a single range is requested', async () => {
    for (const range of ['bytes=0-9,20-29', 'lines=1-2', 'bytes=x-y', 'bytes', 'bytes=9-2,50-40,x']) {
      const answer = await get({ range });
      if (answer.status === 416) assert.match(range, /9-2/);
      else isWhole(answer);
    }
  });

  it('reports its length when a range is beyond its end', async () => {
    for (const range of [`bytes=${size()}-`, `bytes=${size() + 5}-${size() + 9}`, 'bytes=-0']) {
      for (const method of ['GET', 'HEAD']) {
        const answer = await get({ range }, method);
        assert.equal(answer.headers['content-range'], `bytes */${size()}`, range);
        if (method === 'GET') problemIn(answer, 416, 'range_not_satisfiable');
        else assert.equal(answer.status, 416);
      }
    }
    isWhole(await get({}));
  });

  it('is sent in ranges only to clients with other ranges of the same file', async () => {
    const range = 'bytes=100-199';
    assert.equal((await get({ range, 'if-range': etag })).status, 206);
    for (const other of [
      `"${'0'.repeat(64)}"`,
      `W/${etag}`,
      `"x", ${etag}`,
      etag.slice(1, -1),
      new Date().toUTCString(),
      'Sun, 22 Nov 2099 09:00:00 GMT',
    ]) {
      isWhole(await get({ range, 'if-range': other }));
    }
  });

  it('is not sent again to clients that have it', async () => {
    for (const tag of [etag, `"x", ${etag}`, `W/${etag}`, '*']) {
      const { status, headers, bytes } = await get({ 'if-none-match': tag });
      assert.deepEqual([status, bytes.length, headers.etag], [304, 0, etag], tag);
    }
    isWhole(await get({ 'if-none-match': '"x"' }));
    isWhole(await get({ 'if-modified-since': new Date().toUTCString() }));
    assert.equal((await get({ 'if-match': etag })).status, 200);
    assert.equal((await get({ 'if-match': `W/"x", ${etag}` })).status, 200);
    // A weak tag matches nothing in If-Match.
    for (const tag of ['"x"', `W/${etag}`, `"x", W/${etag}`])
      problemIn(await get({ 'if-match': tag }), 412, 'precondition_failed');
  });

  it('is resumed by curl -C - after a disconnect', async (t) => {
    const proxy = await startFaultProxy(Number(new URL(url).port));
    t.after(() => proxy.close());
    const target = url.replace(/:\d+\//, `:${proxy.port}/`);
    const out = join(folder, 'export.csv');
    let cuts = 0;
    for (const bytes of [10_000, 200_000, 400_000]) {
      proxy.cutAfter(bytes, 'toClient');
      const code = await curl('-f', '-C', '-', '-o', out, target);
      assert.notEqual(code, 0);
      cuts += 1;
      const { size: so } = await stat(out);
      assert(so > 0 && so < size(), `${so} bytes after cut ${cuts}`);
    }
    assert.equal(await curl('-f', '-C', '-', '-o', out, target), 0);
    assert((await readFile(out)).equals(whole.bytes));
    // There is nothing left: curl asks beyond the end, and takes the answer well.
    await curl('-C', '-', '-o', out, target);
    assert((await readFile(out)).equals(whole.bytes));
  });

  it('breaks the connection when reading fails', async (t) => {
    const { mock } = t.mock.method(fs, 'createReadStream', () =>
      Readable.from(
        (async function* () {
          yield whole.bytes.subarray(0, 1000);
          await until('the first bytes', () => seen);
          throw Object.assign(new Error('a broken disk'), { code: 'EIO' });
        })(),
      ),
    );
    let seen = false;
    const response = await open(url);
    assert.equal(response.statusCode, 200);
    response.once('data', () => {
      seen = true;
    });
    await assert.rejects(once(response, 'end'), { code: 'ECONNRESET' });
    mock.restore();
    isWhole(await get({}));
  });

  it('is 404 when it is no longer on the disk', async () => {
    const { job } = await made(chat.url, { format: 'csv', compression: 'gzip' });
    await rm(join(folder, 'data', 'exports', `${job.id}.csv.gz`));
    problemIn(await download(`${chat.url}/api/exports/${job.id}/file`), 404, 'export_not_found');
    isWhole(await get({}));
  });

  it('is 409 while the job is running', async (t) => {
    const source = chat.server.database.exports;
    const gate = Promise.withResolvers<void>();
    t.mock.method(source, 'count', async () => {
      await gate.promise;
      return { conversations: 1, messages: 1 };
    });
    const { id } = await startJob(chat.url);
    for (const what of ['file', 'manifest']) {
      problemIn(await download(`${chat.url}/api/exports/${id}/${what}`), 409, 'export_not_ready');
    }
    gate.resolve();
  });
});
