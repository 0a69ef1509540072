/** The composition root: builds every part once, in the order in which they need each other. */
import type { Config } from '../config/config.ts';
import type { Database } from '../db/database.ts';
import type { Clock, IdSource } from '../domain/runtime.ts';
import { filterReplies } from '../filter/index.ts';
import { createApp } from '../http/app.ts';
import { ReplyRenderer } from '../http/response/reply-renderer.ts';
import { HttpServer } from '../http/server/server.ts';
import { createIdSource } from '../ids.ts';
import { startPurgeJob } from '../jobs/purge-job.ts';
import type { BreakerOptions } from '../llm/breaker.ts';
import type { Logger } from '../logger.ts';
import { createTextFormat } from '../markdown/index.ts';
import type { RequestContext } from '../request-context.ts';
import { ExportThrottle } from '../services/exports/throttle.ts';
import { openContentFilter } from '../startup/open-content-filter.ts';
import { drain } from '../startup/shutdown.ts';
import { listenError } from '../startup/start-error.ts';
import { composeAccess, requireUsableKey } from './access.ts';
import { composeChat, openModel } from './chat.ts';
import type { Core } from './core.ts';
import { composeExports } from './exports.ts';
import { openStorage } from './storage.ts';

/** What tests put in place of the real thing. */
export interface Overrides {
  readonly clock?: Clock;
  readonly ids?: IdSource;
  readonly requestTimeoutMs?: number;
  readonly headersTimeoutMs?: number;
  readonly breaker?: Partial<BreakerOptions>;
  /** How often the word list is checked for changes. */
  readonly lookAtWordsMs?: number;
}

export interface RunningServer {
  readonly url: string;
  readonly database: Database;
  /** Graceful shutdown; repeated calls return the first one's promise. */
  stop(): Promise<void>;
}

const systemClock: Clock = { now: () => Date.now() };

/**
 * Builds and starts the server; resolves when the port is open.
 * @throws StartError for what an operator can mend
 */
export async function startServer(
  config: Config,
  version: string,
  log: Logger,
  context: RequestContext,
  overrides: Overrides = {},
): Promise<RunningServer> {
  const ids = overrides.ids ?? createIdSource();
  const clock = overrides.clock ?? systemClock;
  const worker = ids.next();
  const filter = await openContentFilter(config.filter, log, overrides.lookAtWordsMs);
  const storage = await openStorage(config, worker, log).catch(async (error: unknown) => {
    await filter.stop();
    throw error;
  });
  const upstream = await openModel(config, log, overrides.breaker);
  const secrets = async () => config.linkSecrets ?? [await storage.database.secrets.get('link')];
  const core: Core = { ...storage, config, worker, clock, ids, log, secrets };
  const model = filter.stored ? filterReplies(upstream.model, filter.stored) : upstream.model;
  const throttle = new ExportThrottle();
  const chat = composeChat(core, model, filter, throttle);
  const access = await composeAccess(core);
  const exports = await composeExports(core, throttle);
  const closeParts = async () => {
    await upstream.close();
    await Promise.all([access.keys.close(), access.limits.close(), filter.stop()]);
    await storage.close();
  };
  await requireUsableKey(config, access.keys, log).catch(async (error: unknown) => {
    await closeParts();
    throw error;
  });
  const renderer = new ReplyRenderer(createTextFormat(), filter.output);
  const { messageMaxChars } = config.chat;
  const options = { ...config.http, ...config.auth, version, messageMaxChars };
  const app = createApp(options, { ...chat, ...access, ...exports, clock, renderer, log, context });
  const server = new HttpServer(app, { bodyLimit: config.http.bodyLimit, log, ...overrides });
  const address = await server.listen(config.port, config.host).catch(async (error: unknown) => {
    await closeParts();
    throw listenError(error, config);
  });
  const purgeJob = startPurgeJob(exports.purge, config.purgeCron, log);
  exports.jobRunner.wake();

  const stop = async () => {
    chat.health.stop();
    await Promise.all([purgeJob.stop(), exports.jobRunner.stop()]);
    await exports.notifier.close();
    await drain(server, chat.turns, chat.generations, config.shutdownGraceMs);
    await closeParts();
  };
  let stopping: Promise<void> | undefined;
  return {
    url: address.url,
    database: storage.database,
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}
