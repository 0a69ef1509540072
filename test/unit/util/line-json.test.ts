import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Retention } from '../../../src/domain/conversations/retention.ts';
import { contentEvent, endEvent, startEvent } from '../../../src/http/sse/encode.ts';
import { ndjsonEncoder } from '../../../src/services/exports/encoders.ts';
import { lineJson } from '../../../src/util/line-json.ts';

const TEXT = 'a\u0085b\u2028c\u2029d "q" 字 \\ \u000b\u001c';
/** As Python's splitlines and Node's readline see them, line feeds left out. */
const OTHER_BREAKS = [...'\u000b\f\r\u001c\u001d\u001e\u0085\u2028\u2029'];
const breaksIn = (text: string) => OTHER_BREAKS.filter((char) => text.includes(char));

it('JSON has no line break of any reader, and the same value', () => {
  assert.deepEqual(breaksIn(lineJson(TEXT)), []);
  assert.equal(JSON.parse(lineJson(TEXT)), TEXT);
  assert.equal(lineJson('字 😀'), '"字 😀"');
});

it('events and lines of exports have no other line break than the line feed', () => {
  const conversation = {
    id: 'c',
    createdAt: '2026-01-01T00:00:00.000Z',
    lastActive: '2026-01-01T00:00:00.000Z',
  };
  const message = {
    uid: 'm',
    role: 'user',
    content: TEXT,
    timestamp: conversation.createdAt,
    status: 'complete',
  };
  const data = { content: TEXT };
  const texts = [
    startEvent('s', 0, 1, data),
    contentEvent('s', 1, TEXT),
    endEvent('s', 1, 'done', data),
    ndjsonEncoder(new Retention(0)).messages(conversation, [message], true),
  ];
  for (const text of texts) assert.deepEqual(breaksIn(text), []);
});
