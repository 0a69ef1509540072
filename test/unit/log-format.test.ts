import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLineFormat } from '../../src/log-format.ts';

const time = new Date(2026, 10, 26, 9, 12, 24, 800).toISOString();
const request = {
  level: 'info',
  time,
  pid: 1,
  request_id: '5f0c1234-aaaa-bbbb-cccc-dddddddddddd',
  method: 'POST',
  path: '/api/chat-stream',
  status: 200,
  ms: 1256.4,
  bytes: 900,
  msg: 'request',
};

describe('a line for a terminal', () => {
  const format = createLineFormat(false);
  const shown = (line: object) => format(JSON.stringify(line));

  it('of a request has the outcome, the call to the model, and the start of the ids', () => {
    const turn = {
      conversation_id: '01a20289-46f6-7000-a1c2-0d5a3f0e7b11',
      model: 'gpt-4o-mini',
      cache: 'miss',
      prompt_tokens: 9,
      completion_tokens: 12,
      first_token_ms: 320.4,
    };
    assert.equal(
      shown({ ...request, key_id: 'x', key_prefix: 'ck_4fT9xQ2a', ...turn }),
      '09:12:24 POST /api/chat-stream 200 1256ms model=gpt-4o-mini cache=miss tokens=9+12 first=320ms ' +
        'conv=01a20289 key=ck_4fT9xQ2a req=5f0c1234\n',
    );
  });

  it('of a failed request names the code', () => {
    const failed = { ...request, status: 502, code: 'upstream_error', cause: 'Error ECONNRESET' };
    const line =
      '09:12:24 POST /api/chat-stream 502 upstream_error 1256ms cause=Error ECONNRESET req=5f0c1234\n';
    assert.equal(shown(failed), line);
    const coloured = createLineFormat(true)(JSON.stringify(failed));
    assert.ok(coloured.includes('\u001b[31m502 upstream_error\u001b[39m'), coloured);
  });

  it('of any other message is one line with its fields', () => {
    const line = shown({ level: 'warn', time, pid: 1, model: 'm', msg: 'circuit breaker opened' });
    assert.equal(line, '[09:12:24] WARN: circuit breaker opened {"model":"m"}\n');
  });

  it('of an unhandled error has the stack', () => {
    const err = { type: 'TypeError', message: 'x', stack: '    at somewhere (file.ts:1:2)' };
    assert.match(
      shown({ ...request, level: 'error', err, msg: 'unhandled error' }),
      /unhandled error[\s\S]*at somewhere/,
    );
  });
});
