import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ExportThrottle } from '../../../../src/services/exports/throttle.ts';

/** Work that takes so long for each piece, by a clock that only work and rests move. */
function start() {
  const time = { at: 1000 };
  const rests: number[] = [];
  const pace = new ExportThrottle({
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
  return { pace, time, rests, pieces };
}

async function all<T>(pieces: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const piece of pieces) found.push(piece);
  return found;
}

describe('background work', () => {
  it('does not pause without chats', async () => {
    const { pace, rests, pieces } = start();
    assert.deepEqual(await all(pace.throttle(pieces(1, 2, 300))), [1, 2, 300]);
    assert.deepEqual(rests, []);
  });

  it('pauses for twelve times its working time, for 50 ms after each chat', async () => {
    const { pace, time, rests, pieces } = start();
    pace.noteChat();
    assert.deepEqual(await all(pace.throttle(pieces(2, 3, 4, 5))), [2, 3, 4, 5]);
    // 2 + 24 + 3 ms are 29: the third piece, after 36 ms of rest, ends when the chat is long over.
    assert.deepEqual(rests, [24, 36]);
    time.at += 1000;
    pace.noteChat();
    assert.equal((await all(pace.throttle(pieces(0.4)))).length, 1);
    assert.deepEqual(rests.slice(2), [5]);
  });

  it('does not count very long steps as work', async () => {
    const { pace, rests, pieces } = start();
    pace.noteChat();
    await all(pace.throttle(pieces(30, 1)));
    assert.deepEqual(rests, [60]);
  });

  it('takes the same share, however many there are', async () => {
    const { pace, rests, pieces } = start();
    const [one, two] = [pace.throttle(pieces(1, 1)), pace.throttle(pieces(1, 1))];
    await one.next();
    await two.next();
    pace.noteChat();
    await one.next();
    assert.deepEqual(rests, [48]);
    // Whoever leaves in the middle is no longer counted.
    await two.return(undefined);
    pace.noteChat();
    await one.next();
    assert.deepEqual(rests, [48, 12]);
  });

  it('ends with the error of the work', async () => {
    const { pace, rests, pieces } = start();
    async function* broken() {
      yield* pieces(1);
      throw new Error('broken');
    }
    await assert.rejects(all(pace.throttle(broken())), /broken/);
    pace.noteChat();
    await all(pace.throttle(pieces(1)));
    assert.deepEqual(rests, [12]);
  });
});
