import { Redis } from 'ioredis';
import { RateLimiterRedis } from 'rate-limiter-flexible';
import type { CounterStore } from '../domain/access/limits.ts';

const CONNECT_TIMEOUT_MS = 2000;
const COMMAND_TIMEOUT_MS = 3000;
const MAX_RECONNECT_MS = 2000;

/**
 * Counters in Redis. Reconnects for ever. Without a connection additions reject immediately, and none is sent twice,
 * because it could count twice.
 * @param url `redis:` or `rediss:`, with password; errors contain neither that nor a reply of Redis
 */
export function openRedisCounters(url: string): CounterStore & { close(): void } {
  const client = new Redis(url, {
    connectTimeout: CONNECT_TIMEOUT_MS,
    commandTimeout: COMMAND_TIMEOUT_MS,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    lazyConnect: true,
    enableAutoPipelining: true,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 10), MAX_RECONNECT_MS),
    reconnectOnError: (error) => errorCode(error) === 'READONLY',
  });
  let lastError = 'no connection';
  client.on('error', (error: Error) => {
    lastError = errorCode(error);
  });
  const firstConnection = client.connect().catch(() => {});
  // Only its atomic addition is used, so its limit and default duration do not matter.
  const options = { keyPrefix: 'chat-api:limits', points: Number.MAX_SAFE_INTEGER, duration: 1 };
  const limiter = new RateLimiterRedis({ ...options, storeClient: client });
  return {
    async add({ id, points, windowMs }) {
      // The id names the window, so the key may outlive it by the difference of two hosts' clocks.
      const options = { customDuration: (2 * windowMs) / 1000 };
      await firstConnection;
      try {
        return (await limiter.penalty(id, points, options)).consumedPoints;
      } catch (error) {
        // The library's error quotes the whole command.
        throw new Error(`Redis command failed: ${client.status === 'ready' ? errorCode(error) : lastError}`);
      }
    },
    close: () => client.disconnect(),
  };
}

/** `ECONNREFUSED` of the system or `WRONGPASS` of Redis; the rest of a message may quote anything. */
function errorCode(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown';
  if ('code' in error && typeof error.code === 'string') return error.code;
  const [code] = /^[A-Z]+(?= )/.exec(error.message) ?? [];
  return code ?? (/timed out/.test(error.message) ? 'timeout' : error.name);
}
