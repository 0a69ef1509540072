import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { fromTime, toTime } from '../../src/db/core/codec.ts';

describe('times as text', () => {
  const instants = fc.integer({ min: Date.UTC(1000, 0, 1), max: Date.UTC(9999, 11, 31) });

  test('every instant comes back to the millisecond', () => {
    fc.assert(fc.property(instants, (instant) => assert.equal(fromTime(toTime(instant)), instant)));
  });

  test('text sorts as the instants do', () => {
    fc.assert(fc.property(instants, instants, (a, b) => assert.equal(toTime(a) < toTime(b), a < b)));
  });

  test('it is UTC with milliseconds', () => {
    assert.equal(toTime(Date.UTC(2024, 1, 29, 23, 59, 59, 7)), '2024-02-29 23:59:59.007');
  });

  test('what no database can hold becomes the nearest bound', () => {
    assert.equal(toTime(Number.NEGATIVE_INFINITY), '1000-01-01 00:00:00.000');
    assert.equal(toTime(Number.POSITIVE_INFINITY), '9999-12-31 23:59:59.999');
    assert.throws(() => toTime(Number.NaN), RangeError);
  });

  for (const text of ['', '2024-02-29 23:59:59', '2024-02-29 23:59:59.0077', '2024-0x-29 23:59:59.007']) {
    test(`${JSON.stringify(text)} is refused`, () => {
      assert.throws(() => fromTime(text), RangeError);
    });
  }
});
