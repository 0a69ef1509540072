import { hash } from 'node:crypto';
import type { Addition, CounterStore } from '../domain/limits.ts';

/** What is needed of a limiter of the library rate-limiter-flexible, such as its RateLimiterRedis. */
export interface FlexibleLimiter {
  penalty(
    key: string,
    points: number,
    options: { readonly customDuration: number },
  ): Promise<{ readonly consumedPoints: number }>;
}

/** Counters in whatever store that library speaks to; its own limit and duration do not matter. */
export function createFlexibleStore(limiter: FlexibleLimiter): CounterStore {
  const add = async ({ counter, windowStart, windowMs, points }: Addition) => {
    // A hash, so that no address of a caller is to be read there.
    const key = hash('sha256', `${counter}\n${windowStart}`, 'base64url');
    // The window is in the key, so it may well outlive it by what the clocks of two hosts are apart.
    const options = { customDuration: (2 * windowMs) / 1000 };
    return (await limiter.penalty(key, points, options)).consumedPoints;
  };
  return { add: (additions) => Promise.all(additions.map(add)) };
}
