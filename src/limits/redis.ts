import { Redis } from 'ioredis';
import { RateLimiterRedis } from 'rate-limiter-flexible';
import type { CounterStore } from '../domain/access/limits.ts';
import { errorCode } from '../domain/errors.ts';

/**
 * Counters in Redis. Reconnects for ever. Without a connection additions reject immediately, and none is sent twice,
 * because it could count twice.
 * @param url `redis:` or `rediss:`, with password; errors contain neither that nor a reply of Redis
 * @param onUnreachable called when the first connection fails
 */
export function openRedisCounters(
  url: string,
  onUnreachable: (reason: string) => void = () => {},
): CounterStore & { close(): void } {
  const client = new Redis(url, {
    connectTimeout: 2000,
    commandTimeout: 3000,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    lazyConnect: true,
    enableAutoPipelining: true,
    retryStrategy: (times) => Math.min(50 * 2 ** times, 2000),
    reconnectOnError: (error) => codeOf(error) === 'READONLY',
  });
  let lastError = 'no connection';
  client.on('error', (error: Error) => {
    lastError = codeOf(error);
  });
  let isClosed = false;
  const firstConnection = client.connect().catch(() => {
    if (!isClosed) onUnreachable(lastError);
  });
  // Only its atomic addition is used, so its limit and default duration do not matter.
  const options = { keyPrefix: 'chat-api:limits', points: Number.MAX_SAFE_INTEGER, duration: 1 };
  const limiter = new RateLimiterRedis({ ...options, storeClient: client });
  return {
    async add({ id, points, windowMs }) {
      await firstConnection;
      try {
        // Keys may outlive their window, because the id names the window and clocks differ.
        const customDuration = (2 * windowMs) / 1000;
        return (await limiter.penalty(id, points, { customDuration })).consumedPoints;
      } catch (error) {
        // The library's error quotes the whole command.
        throw new Error(`Redis command failed: ${client.status === 'ready' ? codeOf(error) : lastError}`);
      }
    },
    close() {
      isClosed = true;
      client.disconnect();
    },
  };
}

/** `ECONNREFUSED` of the system or `WRONGPASS` of Redis; the rest of a message may quote anything. */
function codeOf(error: unknown): string {
  const message = error instanceof Error ? error.message : '';
  const [code] = /^[A-Z]+(?= )/.exec(message) ?? [];
  return errorCode(error) ?? code ?? (/timed out/.test(message) ? 'timeout' : 'unknown');
}
