import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { ModelOutcome } from '../../../../src/domain/chat/model.ts';
import { AppError } from '../../../../src/domain/errors.ts';
import { Generation } from '../../../../src/services/chat/generation.ts';
import { Reply, storedEnd } from '../../../../src/services/chat/reply.ts';

const WHOLE: ModelOutcome = { finishReason: 'stop', usage: null, model: 'm', truncated: false };
const deleted = () => new AppError('conversation_not_found');

/** Without waiting for the end. */
async function hasEnded(reply: Reply): Promise<boolean> {
  return Promise.race([reply.ended.then(() => true), new Promise<false>((no) => setImmediate(no, false))]);
}

/** A reply with these pieces. */
function said(...pieces: string[]) {
  const generation = new Generation();
  const reply = new Reply(generation);
  for (const piece of pieces) generation.append(piece);
  return { generation, reply };
}

describe('a reply', () => {
  it('has the pieces of its generation and ends with it', async () => {
    const { generation, reply } = said('您', '好');
    assert.deepEqual(
      [reply.running, reply.count, reply.length, reply.text, reply.end],
      [true, 2, 2, '您好', undefined],
    );
    assert.deepEqual([reply.piece(0), reply.piece(1), reply.piece(2)], ['您', '好', undefined]);
    assert.equal(await hasEnded(reply), false);
    generation.finish(WHOLE);
    assert.deepEqual([reply.running, reply.end], [false, WHOLE]);
    assert.equal(await hasEnded(reply), true);
  });

  it('is broken when its generation fails', async () => {
    const { generation, reply } = said('Half');
    const error = new AppError('upstream_incomplete');
    generation.fail(error);
    assert.deepEqual(reply.end, error);
    assert.equal(reply.text, 'Half');
    assert.equal(await hasEnded(reply), true);
  });

  it('returns the text after any number of UTF-16 units, for any pieces', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'grapheme', maxLength: 6 })),
        fc.nat(),
        fc.nat(),
        (pieces, known, stop) => {
          const text = pieces.join('');
          const { generation, reply } = said(...pieces);
          const length = known % (text.length + 4);
          assert.equal(reply.after(length), text.slice(length));
          // Later pieces of a shared generation do not belong to it.
          const shared = new Reply(generation);
          shared.stop();
          for (let more = 0; more < stop % 3; more++) generation.append('more');
          assert.equal(shared.after(length), text.slice(length));
        },
      ),
    );
  });
});

describe('a reply that is stopped', () => {
  it('ends with its text so far, and the call to the model is aborted', async () => {
    const { generation, reply } = said('a', 'b');
    reply.stop();
    assert.deepEqual([reply.running, reply.end, reply.text], [false, 'stopped', 'ab']);
    assert.equal(await hasEnded(reply), true);
    assert.equal(generation.signal.aborted, true);
    // The model may take a moment to notice.
    generation.append('c');
    generation.fail(new AppError('upstream_incomplete'));
    assert.deepEqual([reply.end, reply.text, reply.count], ['stopped', 'ab', 2]);
    assert.deepEqual([reply.length, reply.piece(2)], [2, undefined]);
  });

  it('does not end a shared generation', async () => {
    const { generation, reply } = said('a');
    const other = new Reply(generation);
    reply.stop();
    assert.equal(generation.signal.aborted, false);
    generation.append('b');
    generation.finish(WHOLE);
    assert.deepEqual([reply.text, other.text], ['a', 'ab']);
    assert.deepEqual([reply.end, other.end], ['stopped', WHOLE]);
  });

  it('aborts a shared call with the last stop', () => {
    const { generation, reply } = said('a');
    const others = [new Reply(generation), new Reply(generation)];
    for (const each of [reply, ...others]) {
      assert.equal(generation.signal.aborted, false);
      each.stop();
      each.stop();
    }
    assert.equal(generation.signal.aborted, true);
  });

  it('has no effect after the end, and neither has fail', () => {
    const { generation, reply } = said('a');
    generation.finish(WHOLE);
    reply.stop();
    reply.fail(deleted());
    assert.equal(reply.end, WHOLE);
    const { reply: stopped } = said('a');
    stopped.stop();
    stopped.fail(deleted());
    assert.equal(stopped.end, 'stopped');
  });

  it('because its conversation was deleted ends with that error, and so does the call', () => {
    const { generation, reply } = said('a');
    const error = deleted();
    reply.fail(error);
    assert.deepEqual(reply.end, error);
    assert.equal(generation.signal.reason, error);
  });
});

describe('a watcher of a reply', () => {
  it('is called for every piece and at the end', () => {
    const { generation, reply } = said();
    const seen: [number, boolean][] = [];
    reply.watch(() => seen.push([reply.length, reply.running]));
    generation.append('ab');
    generation.append('c');
    generation.finish(WHOLE);
    assert.deepEqual(seen, [
      [2, true],
      [3, true],
      [3, false],
    ]);
  });

  it('is called once at the stop, and not for later pieces', () => {
    const { generation, reply } = said();
    new Reply(generation);
    let calls = 0;
    reply.watch(() => {
      calls += 1;
    });
    generation.append('a');
    reply.stop();
    assert.equal(calls, 2);
    generation.append('b');
    generation.finish(WHOLE);
    assert.equal(calls, 2);
  });

  it('is not called after unwatch', () => {
    const { generation, reply } = said();
    let calls = 0;
    const unwatch = reply.watch(() => {
      calls += 1;
    });
    generation.append('a');
    unwatch();
    generation.append('b');
    reply.stop();
    assert.equal(calls, 1);
  });
});

describe('storedEnd', () => {
  it('distinguishes whole, cut, stopped and failed replies', () => {
    const capped = { ...WHOLE, finishReason: 'length', truncated: true } as const;
    const filtered = { ...WHOLE, finishReason: 'content_filter' } as const;
    assert.deepEqual(
      [storedEnd(WHOLE), storedEnd(filtered), storedEnd(capped), storedEnd('stopped'), storedEnd(deleted())],
      [
        { status: 'complete', finishReason: 'stop' },
        { status: 'complete', finishReason: 'content_filter' },
        { status: 'incomplete', finishReason: 'length' },
        { status: 'cancelled', finishReason: 'cancelled' },
        { status: 'incomplete', finishReason: 'error' },
      ],
    );
  });
});
