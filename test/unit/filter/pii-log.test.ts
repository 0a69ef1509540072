import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLogger } from '../../../src/logger.ts';

function logged(fields: object, masked = true): Record<string, unknown> {
  let text = '';
  const log = createLogger({ level: 'info', file: undefined, masked }, () => ({}), {
    write: (line) => {
      text += line;
    },
  });
  log.info(fields, 'called 13812345678');
  return JSON.parse(text);
}

describe('a log line with personal data', () => {
  it('is masked in its message and in every string at any depth', () => {
    const line = logged({ to: 'zhang@example.com', list: [{ card: '4111 1111 1111 1111' }] });
    assert.equal(line.msg, 'called 138****5678');
    assert.equal(line.to, 'z***@example.com');
    assert.deepEqual(line.list, [{ card: '411* **** **** 1111' }]);
  });

  it('is masked in the text of an error', () => {
    const line = logged({ err: new Error('no mail to zhang@example.com') });
    assert.equal((line.err as { message: string }).message, 'no mail to z***@example.com');
  });

  it('stays valid JSON', () => {
    const text = '\u001bzhang@example.com\n"13812345678"\\13812345678\u0000';
    const line = logged({ text, number: 4111111111111111, '13812345678': 1 });
    assert.equal(line.text, '\u001bz***@example.com\n"138****5678"\\138****5678\u0000');
    assert.equal(line.number, 4111111111111111);
  });

  it('keeps its ids, whatever their digits', () => {
    const ids = ['01912345-1234-7411-8111-411111111111', `${'a'.repeat(50)}13812345678abc`];
    assert.deepEqual(logged({ ids, both: `${ids[0]} 13812345678` }).ids, ids);
    assert.equal(logged({ both: `${ids[0]} 13812345678` }).both, `${ids[0]} 138****5678`);
  });

  it('is unchanged when masking is off', () => {
    assert.equal(logged({}, false).msg, 'called 13812345678');
  });
});
