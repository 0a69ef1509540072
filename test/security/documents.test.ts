import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { posix } from 'node:path';
import { describe, it } from 'node:test';
import { anchorsOf, blocksOf, fileUrl, linksOf, prose, read, rowsUnder } from '../docs/documents.ts';

describe('SECURITY.md', () => {
  const model = rowsUnder(read('SECURITY.md'), /Threat model/).slice(1);

  it('names an existing test for every threat', () => {
    assert(model.length > 15);
    const named = model.map(([, , , tests = '']) =>
      [...tests.matchAll(/`([^`]+)`/g)].map(([, path = '']) => path),
    );
    assert.deepEqual(
      named.filter((paths) => paths.length === 0),
      [],
    );
    const missing = named
      .flat()
      .filter((path) => !/^test\/.+\.test\.ts$/.test(path) || !existsSync(fileUrl(path)));
    assert.deepEqual(missing, []);
  });

  it('names the defence for every threat', () => {
    for (const [, tries, stops] of model) assert(tries && stops, String(tries));
  });

  it('names every test of this folder', () => {
    for (const name of ['connections', 'nginx', 'slow-clients', 'smuggling'])
      assert(read('SECURITY.md').includes(`\`test/security/${name}.test.ts\``), name);
  });

  it('has no broken links', () => {
    for (const { path, fragment } of linksOf(read('SECURITY.md'))) {
      assert(existsSync(fileUrl(path)), path);
      assert(fragment === '' || anchorsOf(read(posix.normalize(path))).includes(fragment), fragment);
    }
  });
});

describe('the page on security', () => {
  const [english, chinese] = [read('docs/security.md'), read('docs/security.zh-CN.md')];

  it('shows the same code in both languages', () => {
    const plain = (text: string) =>
      blocksOf(text).map((block) => ({ language: block.language, text: block.text }));
    assert.deepEqual(plain(chinese), plain(english));
  });

  it('has the same sections, rows and points in both languages', () => {
    const shape = (text: string) =>
      [...prose(text).matchAll(/^(#+ |\| *(?=`)|- \[ \]|- |\d\. )/gm)]
        .map(([, mark = '']) => mark.trim())
        .join(' ');
    assert.equal(shape(chinese), shape(english));
  });
});
