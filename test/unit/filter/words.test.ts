import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadWords, WordListError } from '../../../src/filter/index.ts';

describe('a word list', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'words-'));
  });
  after(() => rm(folder, { recursive: true }));

  async function loaded(content: string | Uint8Array): Promise<string[]> {
    const path = join(folder, 'words.txt');
    await writeFile(path, content);
    return loadWords(path);
  }

  it('has one word or phrase a line, without blank lines, comments and white space around', async () => {
    const words = await loaded('\ufeff敏感词\r\n\n# a comment\n  buy now \t\n\u3000#1 \n中#文');
    assert.deepEqual(words, ['敏感词', 'buy now', '中#文']);
  });

  it('may be empty', async () => {
    assert.deepEqual(await loaded(''), []);
  });

  for (const [fault, content, line] of [
    ['not UTF-8', Buffer.concat([Buffer.from('好\n坏\n'), Buffer.from([0xb0, 0xd7]), Buffer.from('\nx')]), 3],
    ['not UTF-8', Buffer.from('\ufeff敏感', 'utf16le'), 1],
    ['longer than 200 characters', `a\n${'b'.repeat(201)}`, 2],
    ['a control character', 'a\n\nb\tc\n', 3],
    ['a control character', 'hunter2\0\n', 1],
    ['no visible character', '\u200b\n', 1],
  ] as const) {
    it(`reports the line of an invalid entry and not the word: ${fault} (${line})`, async () => {
      await assert.rejects(loaded(content), (error) => {
        assert.ok(error instanceof WordListError);
        assert.ok(error.message.endsWith(`words.txt, line ${line}: ${fault}`), error.message);
        assert.doesNotMatch(error.message, /hunter2/);
        return true;
      });
    });
  }

  it('reports a missing file', async () => {
    await assert.rejects(loadWords(join(folder, 'none.txt')), /none\.txt cannot be read \(ENOENT\)/);
    await assert.rejects(loadWords(folder), /cannot be read \(EISDIR\)/);
  });
});
