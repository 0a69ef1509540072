import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { verifyExport } from '../../scripts/export-lib/verify.ts';
import { exportManifest } from '../../src/http/schemas/export-jobs.ts';
import { type ChatServer, startChat, until } from '../support/chat-server.ts';
import { reply } from '../support/fake-upstream.ts';

const SAID = '电话 13812345678，卡 4111 1111 1111 1111';
const SHOWN = '电话 138****5678，卡 411* **** **** 1111';
const ANSWER = '=写信给 zhang@example.com';
const SHOWN_ANSWER = '=写信给 z***@example.com';

async function madeJob(chat: ChatServer, body: object) {
  const created = await chat.call('POST', '/api/exports', body);
  assert.equal(created.status, 202, created.text);
  const path = String(created.headers.location);
  await until('the export', async () => JSON.parse((await chat.call('GET', path)).text).status === 'done');
  // As bytes: reading text takes the byte order mark away.
  const bytes = Buffer.from(await (await fetch(`${chat.url}${path}/file`)).arrayBuffer());
  const manifest = exportManifest.parse(JSON.parse((await chat.call('GET', `${path}/manifest`)).text));
  return { bytes, file: bytes.toString().replace(/^\uFEFF/, ''), manifest };
}

describe('exports with personal data masked', () => {
  let chat: ChatServer;
  let folder: string;
  let id: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-api-personal-'));
    chat = await startChat({ PII_MASK: 'exports', DATA_DIR: folder });
    chat.upstream.respond(reply(ANSWER));
    ({ conversation_id: id } = await chat.ask({ message: SAID }));
  });
  after(async () => {
    await chat.stop();
    await rm(folder, { recursive: true, force: true });
  });

  for (const format of ['csv', 'ndjson', 'json'] as const) {
    it(`are the same bytes from a job and a download, and their manifest says so (${format})`, async () => {
      const { bytes, file, manifest } = await madeJob(chat, { format });
      const direct = await chat.call('GET', `/api/conversations/export-all?format=${format}`);
      const when = /"exported_at":"[^"]+"/;
      assert.equal(file.replace(when, ''), direct.text.replace(/^\uFEFF/, '').replace(when, ''));
      assert.ok(file.includes(SHOWN) && file.includes(SHOWN_ANSWER));
      assert.ok(!/13812345678|zhang@/.test(file));
      assert.equal(manifest.pii_masked, true);
      const path = join(folder, `verified.${format}`);
      await writeFile(path, bytes);
      assert.deepEqual(await verifyExport(path, manifest), []);
    });
  }

  it('are masked for one conversation and in a preview', async () => {
    const one = await chat.call('GET', `/api/conversations/${id}/export?format=json`);
    assert.equal(JSON.parse(one.text).metadata.pii_masked, true);
    assert.ok(one.text.includes(SHOWN) && !one.text.includes('13812345678'));
    const preview = await chat.call('GET', '/api/conversations/export-all?preview=1');
    assert.deepEqual(
      JSON.parse(preview.text).rows.map(({ content }: { content: string }) => content),
      [SHOWN],
    );
  });

  it('do not change conversations', async () => {
    assert.deepEqual(
      (await chat.read(id)).messages.map(({ content }) => content),
      [SAID, ANSWER],
    );
  });
});

describe('exports without masking', () => {
  it('are complete, and do not mention masks', async () => {
    const chat = await startChat({ PII_MASK: 'logs' });
    try {
      await chat.ask({ message: SAID });
      const { file, manifest } = await madeJob(chat, { format: 'json' });
      assert.ok(file.includes(SAID));
      assert.ok(!file.includes('pii_masked') && !('pii_masked' in manifest));
    } finally {
      await chat.stop();
    }
  });
});

describe('logs', () => {
  for (const [setting, shown] of [
    ['logs', '138****5678'],
    ['exports', '13812345678'],
  ] as const) {
    it(`mask personal data according to PII_MASK=${setting} has it`, async () => {
      const chat = await startChat({ PII_MASK: setting });
      try {
        await chat.call('GET', '/health', undefined, { 'x-request-id': 'call-13812345678' });
        const line = await until('a line', () =>
          chat.server.lines.find(({ request_id }) => String(request_id).startsWith('call-')),
        );
        assert.equal(line.request_id, `call-${shown}`);
      } finally {
        await chat.stop();
      }
    });
  }
});
