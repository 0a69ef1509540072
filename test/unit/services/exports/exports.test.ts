import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Retention } from '../../../../src/domain/conversations/retention.ts';
import {
  type ExportPart,
  type ExportScope,
  type ExportSource,
  pageOf,
} from '../../../../src/domain/exports/exports.ts';
import { CursorCodec } from '../../../../src/services/exports/cursor-codec.ts';
import { escapeFormula, unescapeFormula } from '../../../../src/services/exports/encoders.ts';
import { ExportService } from '../../../../src/services/exports/exports.ts';
import { anyCharacter } from '../../../support/any-character.ts';

const SCOPE: ExportScope = {
  filter: { owner: null, from: null, to: null, role: null, status: null },
  conversationId: null,
  activeSince: 0,
  since: null,
  lastCreated: 0,
};
const FORM = { format: 'csv', raw: false } as const;
const TARGET = { filter: SCOPE.filter };

function serviceOver(read: () => AsyncIterable<readonly ExportPart[]>): ExportService {
  const source: ExportSource = {
    scope: () => Promise.resolve(SCOPE),
    count: () => Promise.resolve({ conversations: 0, messages: 0 }),
    async *deletions() {},
    async *read() {
      for await (const parts of read()) yield pageOf(parts);
    },
  };
  const cursors = new CursorCodec(async () => ['a secret']);
  return new ExportService(source, cursors, { now: () => 0 }, new Retention(0));
}

describe('formula escaping', () => {
  it('is undone by removing one quote at each start of a cell, for any text', () => {
    const text = fc.oneof(
      fc.string({ unit: anyCharacter }),
      fc.string({ unit: fc.constantFrom(...'=+-@;\t\r\n\'"＝a') }),
    );
    fc.assert(
      fc.property(text, (original) => {
        const escaped = escapeFormula(original);
        assert.doesNotMatch(escaped, /(?:^|[;\t\r\n])"*[=+\-@＝＋－＠]|^[\t\r\n]/);
        assert.equal(unescapeFormula(escaped), original);
      }),
    );
  });

  it('leaves other texts alone', () => {
    for (const text of ['', 'plain', ' =1', '你好', '"quoted"', 'a-b'])
      assert.equal(escapeFormula(text), text);
    assert.equal(escapeFormula("'tis"), "''tis");
  });
});

describe('an export', () => {
  it('emits its opening before the first page is read', async () => {
    const gate = Promise.withResolvers<void>();
    const service = serviceOver(async function* () {
      await gate.promise;
      yield [];
    });
    const { chunks, counts } = await service.start(TARGET, FORM);
    const iterator = chunks[Symbol.asyncIterator]();
    const { value } = await iterator.next();
    assert.match(value.toString(), /^\uFEFFconversation_id,.*\r\n$/);
    gate.resolve();
    assert.equal((await iterator.next()).done, true);
    assert.deepEqual(counts(), { conversations: 0, messages: 0 });
  });

  it('reads no more pages once its reader has left', async () => {
    let pages = 0;
    let closed = false;
    const message = {
      uid: 'u',
      role: 'user',
      content: 'x'.repeat(70_000),
      timestamp: 't',
      status: 'complete',
    };
    const conversation = { id: 'c', createdAt: 'a', lastActive: 'b' };
    const service = serviceOver(async function* () {
      try {
        for (;;) {
          pages += 1;
          yield [{ conversation, messages: [message], begins: true, ends: true }];
        }
      } finally {
        closed = true;
      }
    });
    const { chunks } = await service.start(TARGET, FORM);
    let read = 0;
    for await (const _chunk of chunks) if (++read === 3) break;
    assert.deepEqual([pages, closed], [2, true]);
  });

  it('comes in pieces of about 64 KiB, a long conversation too', async () => {
    const conversation = { id: 'c', createdAt: 'a', lastActive: 'b' };
    const messages = Array.from({ length: 5000 }, (_, index) => ({
      uid: `u${index}`,
      role: 'user',
      content: 'x'.repeat(200),
      timestamp: 't',
      status: 'complete',
    }));
    for (const format of ['json', 'csv', 'ndjson'] as const) {
      const service = serviceOver(async function* () {
        yield [{ conversation, messages, begins: true, ends: false }];
        yield [{ conversation, messages: [], begins: false, ends: true }];
      });
      const { chunks, counts } = await service.start(TARGET, { format, raw: true });
      const sizes: number[] = [];
      for await (const chunk of chunks) sizes.push(chunk.length);
      assert(Math.max(...sizes) < 150_000, `${format} ${Math.max(...sizes)}`);
      assert.deepEqual(counts(), { conversations: 1, messages: 5000 });
    }
  });
});
