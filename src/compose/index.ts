/** The composition root: builds every part once, in the order in which they need each other. */
import type { Config } from '../config/config.ts';
import type { Database } from '../db/database.ts';
import type { Clock, IdSource } from '../domain/runtime.ts';
import { filterReplies } from '../filter/index.ts';
import { createApp, createMetricsApp } from '../http/app.ts';
import { base64Chars } from '../http/request/images.ts';
import { ReplyRenderer } from '../http/response/reply-renderer.ts';
import { HttpServer } from '../http/server/server.ts';
import { createIdSource } from '../ids.ts';
import { startPurgeJob } from '../jobs/purge-job.ts';
import type { BreakerOptions } from '../llm/breaker.ts';
import type { Logger } from '../logger.ts';
import { createTextFormat } from '../markdown/index.ts';
import { measureCalls } from '../metrics/measured-model.ts';
import { traceCalls } from '../metrics/traced-model.ts';
import type { RequestContext } from '../request-context.ts';
import { ExportThrottle } from '../services/exports/throttle.ts';
import { ModelList } from '../services/models.ts';
import { openContentFilter } from '../startup/open-content-filter.ts';
import { closeOpened, shutDown } from '../startup/shutdown.ts';
import { listenError } from '../startup/start-error.ts';
import { unlessAborted } from '../util/timers.ts';
import { composeAccess, requireUsableKey } from './access.ts';
import { composeChat, openModel } from './chat.ts';
import type { Core } from './core.ts';
import { composeExports } from './exports.ts';
import { composeScrapes, modelServerOf, recordMetrics } from './metrics.ts';
import { openMetricsPort } from './metrics-port.ts';
import { openStorage } from './storage.ts';

/** The model client is loaded after the first probe of /health, so that a start stays cheap. */
const WARM_UP_AFTER_MS = 250;

/** What tests put in place of the real thing. */
export interface Overrides {
  readonly clock?: Clock;
  readonly ids?: IdSource;
  readonly requestTimeoutMs?: number;
  readonly headersTimeoutMs?: number;
  readonly stallMs?: number;
  readonly breaker?: Partial<BreakerOptions>;
  /** How often the word list is checked for changes. */
  readonly lookAtWordsMs?: number;
}

export interface StartOptions extends Overrides {
  /** Ends a start that waits, and closes what it has opened; the start rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

export interface RunningServer {
  readonly url: string;
  readonly database: Database;
  /** Graceful shutdown; repeated calls return the first one's promise. */
  stop(): Promise<void>;
}

const systemClock: Clock = { now: () => Date.now() };

/**
 * Builds and starts the server; resolves when the port is open. Closes what it has opened when it fails.
 * @throws StartError for what an operator can mend
 */
export async function startServer(
  config: Config,
  version: string,
  log: Logger,
  context: RequestContext,
  options: StartOptions = {},
): Promise<RunningServer> {
  const opened = new AsyncDisposableStack();
  try {
    return await openServer(config, version, log, context, options, opened);
  } catch (error) {
    await closeOpened(opened, log);
    throw error;
  }
}

async function openServer(
  config: Config,
  version: string,
  log: Logger,
  context: RequestContext,
  { signal = new AbortController().signal, ...overrides }: StartOptions,
  opened: AsyncDisposableStack,
): Promise<RunningServer> {
  const ids = overrides.ids ?? createIdSource();
  const clock = overrides.clock ?? systemClock;
  const worker = ids.next();
  const filter = await openContentFilter(config.filter, log, overrides.lookAtWordsMs);
  opened.defer(() => filter.stop());
  const recorded = recordMetrics(config, version);
  const { metrics } = recorded;
  const storage = await openStorage(config, worker, metrics, log, opened, signal);
  const upstream = await openModel(config, log, storage.database.textMaxBytes, metrics, overrides.breaker);
  opened.defer(() => upstream.close());
  const secrets = async () => config.linkSecrets ?? [await storage.database.secrets.get('link')];
  const core: Core = { ...storage, config, metrics, worker, clock, ids, log, secrets };
  const traced = traceCalls(measureCalls(upstream.model, metrics), {
    version,
    serverAddress: modelServerOf(config),
    headers: () => context.trace?.headers,
  });
  const model = filter.stored ? filterReplies(traced, filter.stored) : traced;
  const throttle = new ExportThrottle();
  const chat = composeChat(core, model, filter, throttle);
  const access = await composeAccess(core);
  opened.defer(() => access.close());
  const exports = await composeExports(core, throttle);
  await unlessAborted(signal, requireUsableKey(config, access.keys, log));
  const renderer = new ReplyRenderer(createTextFormat(), filter.output);
  const scrapes = await composeScrapes(
    core,
    recorded,
    { generations: () => chat.generations.open, circuits: () => upstream.model.circuits() },
    opened,
  );
  const { chat: chatLimits, loopback, v1 } = config;
  const options = { ...config.http, ...config.auth, loopback, version, chatLimits, v1 };
  const parts = { ...access, metrics, scrape: scrapes.scrape, clock, log, context };
  const models = new ModelList({
    listModels: () => upstream.model.listModels(),
    names: configuredModels(config),
    clock,
  });
  const app = createApp(options, { ...chat, ...exports, ...parts, renderer, models });
  const messageLimit = config.http.bodyLimit + base64Chars(chatLimits.imagesMaxBytes);
  const bodyLimit = Math.max(messageLimit, config.http.importMaxBytes);
  const server = new HttpServer(app, { bodyLimit, log, ...overrides });
  const { url } = await server.listen(config.port, config.host).catch((error: unknown) => {
    throw listenError(error, config);
  });
  const purgeJob = startPurgeJob(exports.purge, config.purgeCron, metrics, log);
  exports.jobRunner.wake();
  const warmUp = setTimeout(() => void upstream.model.warmUp(), WARM_UP_AFTER_MS).unref();
  opened.defer(() => clearTimeout(warmUp));

  const { port } = config.metrics;
  const ownMetrics =
    port === undefined
      ? []
      : [
          openMetricsPort(
            createMetricsApp(options, { ...parts, scrape: scrapes.scrapeOwn }),
            port + scrapes.index,
            config.host,
            log,
          ),
        ];
  const background = [purgeJob, exports.jobRunner, exports.notifier, ...ownMetrics];
  let stopping: Promise<void> | undefined;
  const stop = () => {
    const parts = { ...chat, writer: storage.writer, server, background, opened };
    stopping ??= shutDown(parts, config.shutdownGraceMs, log);
    return stopping;
  };
  return { url, database: storage.database, stop };
}

function configuredModels({ chat, model }: Config): string[] {
  return [...new Set([chat.model, ...(model.fallback?.model === undefined ? [] : [model.fallback.model])])];
}
