import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ExportThrottle } from '../../../../src/services/exports/throttle.ts';

/** Work that takes so long for each piece, by a clock that only work and rests move. */
function start() {
  const time = { at: 1000 };
  const rests: number[] = [];
  const throttle = new ExportThrottle({
    now: () => time.at,
    pause: async (ms) => {
      rests.push(ms);
      time.at += ms;
    },
  });
  async function* pieces(...durations: number[]): AsyncGenerator<number> {
    for (const ms of durations) {
      time.at += ms;
      yield ms;
    }
  }
  return { throttle, time, rests, pieces };
}

async function all<T>(pieces: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const piece of pieces) found.push(piece);
  return found;
}

describe('background work', () => {
  it('does not pause without chats', async () => {
    const { throttle, rests, pieces } = start();
    assert.deepEqual(await all(throttle.throttle(pieces(1, 2, 300))), [1, 2, 300]);
    assert.deepEqual(rests, []);
  });

  it('pauses for twelve times its working time, for 50 ms after each chat', async () => {
    const { throttle, time, rests, pieces } = start();
    throttle.noteChat();
    assert.deepEqual(await all(throttle.throttle(pieces(2, 3, 4, 5))), [2, 3, 4, 5]);
    // 2 + 24 + 3 ms are 29: the third piece, after 36 ms of rest, ends when the chat is long over.
    assert.deepEqual(rests, [24, 36]);
    time.at += 1000;
    throttle.noteChat();
    assert.equal((await all(throttle.throttle(pieces(0.4)))).length, 1);
    assert.deepEqual(rests.slice(2), [5]);
  });

  it('does not count very long steps as work', async () => {
    const { throttle, rests, pieces } = start();
    throttle.noteChat();
    await all(throttle.throttle(pieces(30, 1)));
    assert.deepEqual(rests, [60]);
  });

  it('shares the pauses among those that work at the same time', async () => {
    const { throttle, rests, pieces } = start();
    const gate = Promise.withResolvers<void>();
    async function* slow() {
      await gate.promise;
      yield* pieces(1);
    }
    const one = throttle.throttle(pieces(1, 1));
    const other = throttle.throttle(slow()).next();
    await one.next();
    throttle.noteChat();
    await one.next();
    assert.deepEqual(rests, [24]);
    gate.resolve();
    await other;
  });

  it('does not count those whose readers do not read, nor those that were left', async () => {
    const { throttle, rests, pieces } = start();
    const stalled = Array.from({ length: 10 }, () => throttle.throttle(pieces(1, 1)));
    for (const one of stalled) await one.next();
    const busy = throttle.throttle(pieces(1, 1, 1, 1));
    await busy.next();
    throttle.noteChat();
    await busy.next();
    assert.deepEqual(rests, [12]);
    for (const one of stalled) await one.return(undefined);
    throttle.noteChat();
    await busy.next();
    assert.deepEqual(rests, [12, 12]);
  });

  it('ends with the error of the work', async () => {
    const { throttle, rests, pieces } = start();
    async function* broken() {
      yield* pieces(1);
      throw new Error('broken');
    }
    await assert.rejects(all(throttle.throttle(broken())), /broken/);
    throttle.noteChat();
    await all(throttle.throttle(pieces(1)));
    assert.deepEqual(rests, [12]);
  });
});
