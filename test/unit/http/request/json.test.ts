import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseJson } from '../../../../src/http/request/json.ts';
import { rounds } from '../../../support/random.ts';

function errorOf(text: string): string | undefined {
  try {
    parseJson(Buffer.from(text));
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : '';
  }
}

/** V8 quotes the same characters around its end where that is a mistake. */
const EMPTY = `[${' '.repeat(12)}]${' '.repeat(12)}`;

describe('the error of malformed JSON', () => {
  for (const [text, position] of [
    ['', 0],
    ['{', 1],
    ['{"a":1,}', 7],
    ['{"a" 1}', 5],
    ["{'a':1}", 1],
    ['[1,,2]', 3],
    ['[1 2]', 3],
    ['{"a":tru}', 8],
    ['{"a":"x\ny"}', 7],
    ['{"a":1} x', 8],
    ['[1}', 2],
    ['01', 1],
    ['"\\x"', 2],
    ['"abc', 4],
    ['undefined', 0],
    ['{"a":[{"b":}]}', 11],
    ['[1,,"at position 5 (line 1 column 2)"]', 3],
    [`{"a":"${'x'.repeat(1000)}","b":oops}`, 1012],
    ['["0,0,0,0,0,x,0,0,0,0,0",0,0,0,0,0,0,x,0,0,0,0,0,0,0]', 37],
    [`[${EMPTY},${EMPTY},1,${EMPTY.slice(1)}`, 69],
    [`[${EMPTY},${EMPTY},1,${EMPTY.slice(1)},${EMPTY},${EMPTY}]`, 69],
  ] as const) {
    it(`names position ${position} of ${JSON.stringify(text.slice(0, 40))}`, () => {
      assert.match(errorOf(text) ?? '', new RegExp(`position ${position}$`));
    });
  }

  it('names a position inside the text for everything that JSON.parse rejects', () => {
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
          const message = errorOf(text);
          if (valid) return assert.equal(message, undefined);
          const position = Number(/ at position (\d+)$/.exec(message ?? '')?.[1]);
          assert.ok(position >= 0 && position <= text.length, message);
        },
      ),
      { numRuns: rounds(1000, 5000) },
    );
  });

  it('names the first position at which no text can go on, also where the same characters stand before', () => {
    const piece = fc.constantFrom(EMPTY, `${EMPTY},`, EMPTY.slice(1), `"${EMPTY}",`, '1,');
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const text = `[${pieces.join('')}`;
        const message = errorOf(text);
        const position = Number(/ is malformed at position (\d+)$/.exec(message ?? '')?.[1]);
        if (Number.isNaN(position)) return;
        assert.match(errorOf(text.slice(0, position)) ?? 'ends too early', /ends too early/, text);
        assert.doesNotMatch(errorOf(text.slice(0, position + 1)) ?? '', /ends too early/, text);
      }),
      { numRuns: rounds(1000, 5000) },
    );
  });

  it('names no position that takes long to find', () => {
    const repeated = (times: number) => `[${`${EMPTY},`.repeat(times)}1,${EMPTY.slice(1)}`;
    assert.match(errorOf(repeated(1000)) ?? '', /^The JSON of the body is malformed at position \d+$/);
    assert.equal(errorOf(repeated(40_000)), 'The JSON of the body is malformed');
  });

  it('quotes nothing of the body', () => {
    for (const text of [
      '{"password":"hunter2" oops',
      '{"password":"hunter2","a":oops}',
      '{"hunter2":oops}',
    ]) {
      assert.match(errorOf(text) ?? '', /^The JSON of the body is malformed at position \d+$/);
    }
  });
});

describe('a JSON body', () => {
  it('may nest 64 levels deep and no deeper', () => {
    const nested = (depth: number) => Buffer.from('['.repeat(depth) + ']'.repeat(depth));
    assert.ok(parseJson(nested(64)));
    assert.throws(() => parseJson(nested(65)), { code: 'malformed_json', message: /64 levels/ });
    assert.throws(() => parseJson(nested(100_000)), { code: 'malformed_json' });
  });

  it('may contain more than 64 brackets inside its strings', () => {
    const value = { a: '[{"'.repeat(200) };
    assert.deepEqual(parseJson(Buffer.from(JSON.stringify(value))), value);
  });

  it('must be valid UTF-8', () => {
    assert.throws(() => parseJson(Buffer.from([0x22, 0xff, 0x22])), {
      code: 'malformed_json',
      message: /UTF-8/,
    });
  });

  it('keeps __proto__ a plain member', () => {
    const value = parseJson(Buffer.from('{"__proto__":{"x":1}}'));
    assert.equal(Object.getPrototypeOf(value), Object.prototype);
    assert.equal(({} as Record<string, unknown>).x, undefined);
  });
});
