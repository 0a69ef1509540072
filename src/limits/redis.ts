import { Redis } from 'ioredis';
import { RateLimiterRedis } from 'rate-limiter-flexible';
import type { CounterStore } from '../domain/limits.ts';
import { createFlexibleStore } from './flexible-store.ts';

const CONNECT_TIMEOUT_MS = 2000;
/** Whoever waits for a decision has given up long before; it is about the next attempt. */
const COMMAND_TIMEOUT_MS = 3000;
const MAX_RECONNECT_MS = 2000;
/** How long the first counts wait for the connection, which begins with the server. */
const FIRST_CONNECT_MS = 300;

const PREFIX = 'chat-api:limits';

export interface RedisCounters extends CounterStore {
  /** Closes the connection; what is under way rejects. */
  close(): void;
}

/**
 * Counters in Redis. Connects at once and for ever anew; while there is no connection every addition rejects at once,
 * and nothing is sent a second time: who does not know whether it was counted would count twice.
 * @param url `redis:` or `rediss:`, with password; neither that nor a reply of Redis is in any error
 */
export function openRedisCounters(url: string): RedisCounters {
  const client = new Redis(url, {
    connectTimeout: CONNECT_TIMEOUT_MS,
    commandTimeout: COMMAND_TIMEOUT_MS,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    // One write for all commands of a batch.
    enableAutoPipelining: true,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 10), MAX_RECONNECT_MS),
    reconnectOnError: (error) => kindOf(error) === 'READONLY',
  });
  let lastFault = 'no connection';
  client.on('error', (error: Error) => {
    lastFault = kindOf(error);
  });
  const firstConnection = new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, FIRST_CONNECT_MS);
    const settle = () => {
      clearTimeout(timer);
      resolve();
    };
    client.once('ready', settle).once('close', settle);
  });
  const store = createFlexibleStore(
    // Its own limit and duration do not matter; without a prefix of the library's a key would begin with "rlflx".
    new RateLimiterRedis({
      storeClient: client,
      keyPrefix: PREFIX,
      points: Number.MAX_SAFE_INTEGER,
      duration: 1,
    }),
  );
  return {
    async add(additions, ranked) {
      await firstConnection;
      // Checked here, as the library's own check would hide why.
      if (client.status !== 'ready') throw new Error(`Redis is away: ${lastFault}`);
      try {
        return await store.add(additions, ranked);
      } catch (error) {
        // The error of the library has the command with everything in it.
        throw new Error(`Redis does not count: ${kindOf(error)}`);
      }
    },
    close: () => client.disconnect(),
  };
}

/** `ECONNREFUSED`, `WRONGPASS`: what begins a reply of Redis, or the system's word for it; the rest may quote anything. */
function kindOf(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown';
  if ('code' in error && typeof error.code === 'string') return error.code;
  return (
    /^[A-Z]+(?= )/.exec(error.message)?.[0] ?? (/timed out/.test(error.message) ? 'timeout' : error.name)
  );
}
