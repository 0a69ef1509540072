import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLogger } from '../../src/logger.ts';

function logged(write: (log: ReturnType<typeof createLogger>) => void): {
  text: string;
  line: Record<string, unknown>;
} {
  let text = '';
  const options = { level: 'info', file: undefined };
  const log = createLogger(options, () => ({ request_id: 'r1' }), {
    write: (line) => {
      text += line;
    },
  });
  write(log);
  return { text, line: JSON.parse(text) };
}

describe('a log line', () => {
  it('has its level as a word', () => {
    assert.equal(logged((log) => log.info('hello')).line.level, 'info');
  });

  it('has the id of its request', () => {
    assert.equal(logged((log) => log.info('hello')).line.request_id, 'r1');
  });

  it('has no field of an earlier line', () => {
    const shared = { request_id: 'r1' };
    const lines: string[] = [];
    const log = createLogger({ level: 'info', file: undefined }, () => shared, {
      write: (line) => lines.push(line),
    });
    log.info({ status: 202 }, 'first');
    log.info('second');
    assert.deepEqual(shared, { request_id: 'r1' });
    assert.equal(JSON.parse(lines[1] ?? '').status, undefined);
  });

  it('has no secret, under whatever name', () => {
    const { text } = logged((log) =>
      log.info(
        { authorization: 'hunter2', apiKey: 'hunter2', headers: { authorization: 'hunter2' } },
        'call',
      ),
    );
    assert.ok(!text.includes('hunter2'), text);
  });

  it('has the code and the stack of a driver’s error, never its message or statement', () => {
    for (const more of [
      { code: 'ER_DUP_ENTRY', sqlState: '23000', sql: "INSERT … 'hunter2'" },
      { code: 'SQLITE_CONSTRAINT' },
    ]) {
      const error = Object.assign(new Error("Duplicate entry 'hunter2'\n for key"), more);
      const { text, line } = logged((log) => log.error({ err: error }, 'failed'));
      assert.ok(!text.includes('hunter2'), text);
      assert.equal((line.err as { code: string }).code, more.code);
      assert.match((line.err as { stack: string }).stack, /logger\.test\.ts/);
    }
  });

  it('has the message of any other error, and its cause in the same way', () => {
    const cause = Object.assign(new Error('hunter2'), { code: 'ER_X', sqlState: '1' });
    const { text, line } = logged((log) => log.error({ err: new Error('outer', { cause }) }, 'failed'));
    assert.equal((line.err as { message: string }).message, 'outer');
    assert.ok(!text.includes('hunter2'), text);
  });
});
