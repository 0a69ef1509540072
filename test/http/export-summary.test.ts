import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { verifyExport } from '../../scripts/export-lib/verify.ts';
import { exportManifest } from '../../src/http/schemas/export-jobs.ts';
import { startChat } from '../support/chat-server.ts';
import { store, storedConversation } from '../support/export-data.ts';
import { jobThatIs, startJob } from '../support/export-jobs.ts';

it('NDJSON with summary=true ends with its counts, directly and as a job, and export:verify checks them', async (t) => {
  const chat = await startChat();
  const folder = await mkdtemp(join(tmpdir(), 'chat-summary-'));
  t.after(async () => {
    await chat.stop();
    await rm(folder, { recursive: true, force: true });
  });
  await store(chat.server.database, [storedConversation(Date.now() - 3_600_000, ['one', 'two', 'three'])]);
  const get = async (query: string) =>
    (await fetch(`${chat.url}/api/conversations/export-all?format=ndjson${query}`)).text();
  const plain = await get('');
  const text = await get('&summary=true');
  assert.equal(text, `${plain}{"summary":{"conversations":1,"messages":3}}\n`);
  const { id } = await startJob(chat.url, { format: 'ndjson', summary: true });
  await jobThatIs(chat.url, id);
  assert.equal(await (await fetch(`${chat.url}/api/exports/${id}/file`)).text(), text);

  const manifest = exportManifest.parse(await (await fetch(`${chat.url}/api/exports/${id}/manifest`)).json());
  const path = join(folder, 'export.ndjson');
  const problems = async (content: string) => {
    await writeFile(path, content);
    return (await verifyExport(path, manifest)).join();
  };
  assert.equal(await problems(text), '');
  assert.match(
    await problems(text.replace('"messages":3}', '"messages":4}')),
    /the summary does not count 3 messages/,
  );
  assert.match(
    await problems(`${text.split('\n').slice(0, 2).reverse().join('\n')}\n`),
    /summary is not the last line/,
  );
});
