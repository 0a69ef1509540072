import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  contentEvent,
  endEvent,
  MAX_CONTENT,
  replayPieceSize,
  startEvent,
} from '../../../../src/http/sse/encode.ts';
import { cut } from '../../../../src/util/pieces.ts';
import { anyCharacter } from '../../../support/any-character.ts';

describe('an event', () => {
  it('has its fields in the order of the contract', () => {
    assert.equal(
      startEvent('s', 0, 3000, { content: '' }),
      'retry: 3000\nevent: start\nid: s:0\ndata: {"content":""}\n\n',
    );
    assert.equal(contentEvent('s', 2, '您好'), 'id: s:2\ndata: {"content":"您好"}\n\n');
    assert.equal(
      endEvent('s', 2, 'done', { content: '' }),
      'event: done\nid: s:2:end\ndata: {"content":""}\n\n',
    );
  });

  it('is one data line whatever its content', () => {
    fc.assert(
      fc.property(fc.string({ unit: anyCharacter }), (content) => {
        const lines = contentEvent('s', 1, content).split(/\r\n|\r|\n/);
        assert.equal(lines.length, 4);
        assert.equal(JSON.parse(lines[1]?.slice(6) ?? '').content, content);
      }),
    );
  });
});

describe('long output', () => {
  it('is split into pieces without splitting a surrogate pair', () => {
    for (const output of [
      '😀'.repeat(100_000),
      `x${'😀'.repeat(100_000)}`,
      'a'.repeat(65_536),
      'a'.repeat(65_537),
      '',
    ]) {
      const pieces = [...cut(output, MAX_CONTENT)];
      assert.equal(pieces.join(''), output);
      assert.ok(pieces.every((piece) => piece.isWellFormed() && piece.length > 0 && piece.length <= 65_536));
    }
  });
});

describe('a replayed reply', () => {
  it('is split into at most 64 pieces of at least 32 units, except the last', () => {
    for (const length of [1, 31, 32, 33, 250, 2048, 2049, 100_000, 4_000_000]) {
      const pieces = [...cut('x'.repeat(length), replayPieceSize(length))];
      assert.equal(pieces.join('').length, length);
      assert.ok(pieces.length <= 64, `${length} units in ${pieces.length} pieces`);
      assert.ok(pieces.slice(0, -1).every((piece) => piece.length >= 32));
    }
  });
});
