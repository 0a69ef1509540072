import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { differences } from './shape.ts';

const json = (value: unknown) => ({ language: 'json', text: JSON.stringify(value), line: 1 });
const text = (value: string) => ({ language: 'text', text: value, line: 1 });
const ID = '0198c0de-7a11-7000-8000-5eed00000001';
const OTHER = '0198c0de-7a11-7000-8000-5eed00000002';

const STREAM = `retry: 3000\nevent: start\nid: ${ID}:0\ndata: {"content":""}\n\n`;
const done = (data: object) => `event: done\nid: ${ID}:9:end\ndata: ${JSON.stringify(data)}\n\n`;
const piece = (content: string, at: number) => `id: ${ID}:${at}\ndata: {"content":"${content}"}\n\n`;

describe('a response matches the documented one', () => {
  it('when only ids, times, numbers and free text differ', () => {
    const shown = json({ id: ID, at: '2026-03-21T08:30:00.000Z', n: 1, text: 'Hello, you', ok: true });
    const actual = { id: OTHER, at: '2027-01-01T00:00:00.001Z', n: 99, text: 'Something else', ok: true };
    assert.deepEqual(differences(shown, JSON.stringify(actual)), []);
  });

  it('when a stream has more pieces and comments', () => {
    const shown = text(STREAM + piece('a', 1) + done({ length: 1 }));
    const actual = `${STREAM}${piece('bc', 2)}: ping\n\n${piece('d', 3)}${done({ length: 3 })}`;
    assert.deepEqual(differences(shown, actual), []);
  });

  it('when the head has more fields', () => {
    const shown = text('HTTP/1.1 404 Not Found\nRetry-After: 2\n\n{"a":1}');
    assert.deepEqual(
      differences(shown, 'HTTP/1.1 404 Not Found\r\nretry-after: 5\r\nDate: x\r\n\r\n{"a":2}'),
      [],
    );
  });
});

describe('a response does not match the documented one', () => {
  const mismatches: [name: string, shown: unknown, actual: unknown][] = [
    ['a member is missing', { a: 1, b: 2 }, { a: 1 }],
    ['a member is not documented', { a: 1 }, { a: 1, b: 2 }],
    ['a type differs', { a: 1 }, { a: '1' }],
    ['null replaces a number', { a: 1 }, { a: null }],
    ['a boolean differs', { cached: false }, { cached: true }],
    ['a word of the API differs', { status: 'complete' }, { status: 'incomplete' }],
    ['a time has no milliseconds', { a: '2026-03-21T08:30:00.000Z' }, { a: '2026-03-21T08:30:00Z' }],
    ['an id is not a UUID', { id: ID }, { id: 'no id at all' }],
    ['an item is of another shape', [{ a: 1 }], [{ a: 1 }, { b: 1 }]],
    ['the list is empty', [{ a: 1 }], []],
  ];
  for (const [name, shown, actual] of mismatches) {
    it(`when ${name}`, () => {
      assert.notDeepEqual(differences(json(shown), JSON.stringify(actual)), []);
    });
  }

  it('when it is not JSON', () => {
    assert.notDeepEqual(differences(json({ a: 1 }), 'oops'), []);
  });

  it('when a stream ends differently', () => {
    const shown = text(STREAM + piece('a', 1) + done({}));
    assert.notDeepEqual(differences(shown, STREAM + piece('a', 1)), []);
    assert.notDeepEqual(differences(shown, STREAM + piece('a', 1) + done({}).replace('done', 'error')), []);
    assert.notDeepEqual(differences(shown, STREAM + piece('a', 1) + done({ length: 1 })), []);
  });

  it('when the status line or a documented field differs', () => {
    const shown = text('HTTP/1.1 404 Not Found\nAllow: GET\n\n{}');
    assert.notDeepEqual(differences(shown, 'HTTP/1.1 400 Bad Request\r\nAllow: GET\r\n\r\n{}'), []);
    assert.notDeepEqual(differences(shown, 'HTTP/1.1 404 Not Found\r\nAllow: PUT\r\n\r\n{}'), []);
    assert.notDeepEqual(differences(shown, 'HTTP/1.1 404 Not Found\r\n\r\n{}'), []);
  });
});
