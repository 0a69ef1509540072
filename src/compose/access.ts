import cluster from 'node:cluster';
import type { Config } from '../config/config.ts';
import { AppError } from '../domain/errors.ts';
import { Quotas } from '../http/access/quotas.ts';
import { ConcurrencyLimiter } from '../limits/concurrency-limiter.ts';
import { Limiter } from '../limits/limiter.ts';
import type { Logger } from '../logger.ts';
import { ApiKeyService } from '../services/access/api-keys.ts';
import { SignedLinks } from '../services/access/signed-links.ts';
import { StartError } from '../startup/start-error.ts';
import type { Core } from './core.ts';

/** Keys, signed links and rate limits. */
export async function composeAccess(core: Core) {
  const { database, clock, ids, log, secrets } = core;
  const keys = new ApiKeyService({ store: database.apiKeys, clock, ids, log });
  const { limits, quotas } = await composeLimits(core);
  const close = async () => {
    await Promise.all([keys.close(), limits.close()]);
  };
  return { keys, links: new SignedLinks(secrets), quotas, close };
}

async function composeLimits({ config, database, processes: alive, metrics, clock, log }: Core) {
  const { redisUrl } = config.limits;
  // PM2 starts its workers one after the other: count those still to come.
  const expected = cluster.isWorker ? config.workers : 1;
  const processes = config.database.target.kind === 'sqlite' ? () => 1 : () => Math.max(alive(), expected);
  const redis = redisUrl === undefined ? undefined : await openRedis(redisUrl, log);
  // Redis may be shared with servers on other databases.
  const isAlone = () => redis === undefined && processes() === 1;
  const limiter = new Limiter({ store: redis ?? database.counters, isAlone, clock, log });
  const close = async () => {
    await limiter.stop();
    redis?.close();
  };
  const quotas = new Quotas(config.limits, limiter, new ConcurrencyLimiter(processes), metrics);
  return { limits: { close }, quotas };
}

async function openRedis(url: string, log: Logger) {
  const { openRedisCounters } = await import('../limits/redis.ts');
  return openRedisCounters(url, (code) => {
    log.warn({ code }, 'rate limit store unavailable, counting locally');
  });
}

/**
 * Checks that a server that requires keys has a usable one. Skipped with a warning while the database is down.
 * @throws StartError
 */
export async function requireUsableKey(config: Config, keys: ApiKeyService, log: Logger): Promise<void> {
  if (!config.auth.required) return;
  try {
    if (await keys.any()) return;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    log.warn('API keys not checked: database unavailable');
    return;
  }
  const host = config.loopback ? '' : ` on HOST ${config.host}, which others can reach`;
  throw new StartError(
    `API keys are required${host}, but none is usable: create one with ` +
      'npm run keys -- create --owner NAME --scopes admin',
    undefined,
  );
}
