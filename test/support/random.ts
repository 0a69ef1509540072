/** Random decisions that a seed reproduces. FAULT_SEED sets the seed; a failed test prints it. */
import { randomInt } from 'node:crypto';
import type { TestContext } from 'node:test';

export interface Random {
  /** A whole number, both ends included. */
  int(min: number, max: number): number;
  chance(probability: number): boolean;
  pick<T>(list: readonly T[]): T;
  /** A separate source, which does not depend on the order in which others are used. */
  fork(): Random;
}

/** The generator is Mulberry32: small, and good enough to choose faults with. */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const int = (min: number, max: number) => min + Math.floor(next() * (max - min + 1));
  return {
    int,
    chance: (probability) => next() < probability,
    pick(list) {
      const item = list[int(0, list.length - 1)];
      if (item === undefined) throw new Error('nothing to pick from');
      return item;
    },
    fork: () => randomFrom(int(0, 2 ** 32 - 1)),
  };
}

/** How often a random test is repeated: `long` times with TEST_LONG=1. */
export function rounds(usual: number, long: number): number {
  return process.env.TEST_LONG === '1' ? long : usual;
}

/** The body of a test that makes random decisions. */
export function randomised(body: (random: Random, t: TestContext) => Promise<void>) {
  return async (t: TestContext): Promise<void> => {
    const seed = Number(process.env.FAULT_SEED ?? randomInt(2 ** 31));
    try {
      await body(randomFrom(seed), t);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new Error(`with FAULT_SEED=${seed}: ${message}`, { cause: error });
    }
  };
}
