import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';

interface PageEvent {
  readonly type: string;
  readonly data: string;
  readonly id: string;
  readonly retry: number | undefined;
}

// The module is a browser's and has no types: its path must not be one that the compiler follows.
const path = fileURLToPath(new URL('../../src/http/web/assets/chat/sse.js', import.meta.url));
const { eventParser }: { eventParser: () => (text: string) => PageEvent[] } = createRequire(import.meta.url)(
  path,
);

const SAMPLE = [
  ': ping',
  '',
  'retry: 3000',
  'event: start',
  'id: a:0',
  'data: {"content":""}',
  '',
  'id: a:2',
  'data: {"content":"您好😀"}',
  '',
  'data:one',
  'data: two',
  'data',
  'unknown: field',
  'retry: soon',
  '',
  'event: forgotten',
  '',
  'event: done',
  'id: a:2:end',
  'data: {"content":""}',
  '',
  'data: never ended',
];

const EVENTS: readonly PageEvent[] = [
  { type: 'start', data: '{"content":""}', id: 'a:0', retry: 3000 },
  { type: 'message', data: '{"content":"您好😀"}', id: 'a:2', retry: 3000 },
  { type: 'message', data: 'one\ntwo\n', id: 'a:2', retry: 3000 },
  { type: 'done', data: '{"content":""}', id: 'a:2:end', retry: 3000 },
];

test('the page reads the same events for every way of cutting the stream and every kind of line end', () => {
  fc.assert(
    fc.property(
      fc.constantFrom('\n', '\r', '\r\n'),
      fc.array(fc.nat({ max: 400 }), { maxLength: 40 }),
      (lineEnd, cuts) => {
        const stream = SAMPLE.join(lineEnd);
        const push = eventParser();
        const events: PageEvent[] = [];
        let from = 0;
        for (const cut of [...cuts.toSorted((a, b) => a - b), stream.length]) {
          events.push(...push(stream.slice(from, Math.max(from, cut))));
          from = Math.max(from, cut);
        }
        assert.deepEqual(events, EVENTS);
      },
    ),
  );
});

test('an event is there as soon as its blank line is, not one piece later', () => {
  const push = eventParser();
  assert.deepEqual(push('data: x\r\n\r'), [{ type: 'message', data: 'x', id: '', retry: undefined }]);
  assert.deepEqual(push('\ndata: y\r\r'), [{ type: 'message', data: 'y', id: '', retry: undefined }]);
});
