import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseJson } from '../../../../src/http/request/body.ts';
import { jsonFaultAt, tooDeep } from '../../../../src/http/request/json-errors.ts';

describe('the place where JSON breaks', () => {
  for (const [text, at] of [
    ['', 0],
    ['{', 1],
    ['{"a":1,}', 7],
    ['{"a" 1}', 5],
    ["{'a':1}", 1],
    ['[1,,2]', 3],
    ['[1 2]', 3],
    ['{"a":tru}', 5],
    ['{"a":"x\ny"}', 5],
    ['{"a":1} x', 8],
    ['[1}', 2],
    ['01', 1],
    ['"\\x"', 0],
    ['{"a":[{"b":}]}', 11],
  ] as const) {
    it(`${JSON.stringify(text)} is position ${at}`, () => assert.equal(jsonFaultAt(text), at));
  }

  it('is nowhere exactly when JSON.parse takes the text', () => {
    const piece = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"a"',
      '"',
      '\\',
      '1',
      '-',
      '.5',
      'e3',
      'true',
      'null',
      ' ',
      '\n',
      '"\\u00e9"',
      '"\\ud800"',
      '😀',
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.array(piece, { maxLength: 10 }).map((p) => p.join('')),
          fc.json(),
        ),
        (text) => {
          let valid = true;
          try {
            JSON.parse(text);
          } catch {
            valid = false;
          }
          assert.equal(jsonFaultAt(text) === -1, valid);
        },
      ),
      { numRuns: 5000 },
    );
  });
});

describe('a JSON body', () => {
  it('may nest to the limit and no deeper', () => {
    const nested = (depth: number) => Buffer.from('['.repeat(depth) + ']'.repeat(depth));
    assert.ok(parseJson(nested(64)));
    assert.throws(() => parseJson(nested(65)), { code: 'malformed_json', message: /64 levels/ });
    assert.throws(() => parseJson(nested(100_000)), { code: 'malformed_json' });
  });

  it('is not deep because of brackets inside its strings', () => {
    assert.equal(tooDeep(JSON.stringify({ a: '[{"'.repeat(200) })), false);
  });

  it('in invalid UTF-8 is refused', () => {
    assert.throws(() => parseJson(Buffer.from([0x22, 0xff, 0x22])), {
      code: 'malformed_json',
      message: /UTF-8/,
    });
  });

  it('is never quoted in the error', () => {
    assert.throws(
      () => parseJson(Buffer.from('{"password":"hunter2" oops')),
      (error: Error) => !/hunter2|oops/.test(error.message),
    );
  });

  it('keeps __proto__ a plain member', () => {
    const value = parseJson(Buffer.from('{"__proto__":{"x":1}}'));
    assert.equal(Object.getPrototypeOf(value), Object.prototype);
    assert.equal(({} as Record<string, unknown>).x, undefined);
  });
});
