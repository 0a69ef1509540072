import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { storedConversation } from '../support/export-data.ts';
import { scriptFolder } from '../support/script.ts';

describe('npm run export with PII_MASK=exports', () => {
  const folder = scriptFolder();
  before(async () => {
    const database = folder.open();
    await database.migrate();
    await database.close();
    folder.fill([storedConversation(Date.now() - 1000, ['电话 13812345678'])]);
    writeFileSync(join(folder.path, '.env'), 'PII_MASK=exports\n');
  });
  after(() => folder.remove());

  it('masks what it writes, says so in the manifest, and npm run export:verify accepts it', async () => {
    const { code, stderr } = await folder.run('export', '--format', 'ndjson', '--out', 'a.ndjson');
    assert.equal(code, 0);
    const text = readFileSync(join(folder.path, 'a.ndjson'), 'utf8');
    assert.ok(text.includes('"content":"电话 138****5678"'), text);
    const manifest = JSON.parse(readFileSync(join(folder.path, 'a.ndjson.manifest.json'), 'utf8'));
    assert.equal(manifest.pii_masked, true);
    assert.equal(stderr, `exported 1 conversations, 1 messages, ${manifest.bytes} bytes\n`);
    const verified = await folder.run('export-verify', 'a.ndjson');
    assert.deepEqual([verified.code, verified.stderr], [0, '']);
  });

  it('masks what it prints', async () => {
    const { stdout } = await folder.run('export', '--format', 'csv');
    assert.ok(stdout.toString().includes('电话 138****5678'));
  });
});
