/** The composition root: builds every part once, in the order in which they need each other. */
import cluster from 'node:cluster';
import { join } from 'node:path';
import { createResponseCache } from '../cache/response-cache.ts';
import type { Config } from '../config/config.ts';
import { createCsvFormat } from '../csv/format.ts';
import { accessDeniedCode } from '../db/core/errors.ts';
import { type Database, openDatabase } from '../db/database.ts';
import { type Durability, openDurability } from '../db/durability.ts';
import { PendingMigrationsError, prepareSchema } from '../db/prepare-schema.ts';
import { AppError } from '../domain/errors.ts';
import type { ChatModel } from '../domain/model.ts';
import type { Clock, IdSource } from '../domain/runtime.ts';
import { createExportFiles } from '../files/export-files.ts';
import { createPurgeArchive } from '../files/purge-archive.ts';
import { filterReplies, maskPersonal } from '../filter/index.ts';
import { Quotas } from '../http/access/quotas.ts';
import { createApp } from '../http/app.ts';
import { presentJob } from '../http/response/export-presenters.ts';
import { ReplyRenderer } from '../http/response/reply-renderer.ts';
import { HttpServer } from '../http/server/server.ts';
import { createIdSource } from '../ids.ts';
import { startPurgeJob } from '../jobs/purge-job.ts';
import { ConcurrencyLimiter } from '../limits/concurrency-limiter.ts';
import { Limiter } from '../limits/limiter.ts';
import { openRedisCounters } from '../limits/redis.ts';
import type { BreakerOptions } from '../llm/breaker.ts';
import { startDemoModel } from '../llm/demo/demo.ts';
import { createChatModel } from '../llm/model.ts';
import type { Logger } from '../logger.ts';
import { createTextFormat } from '../markdown/index.ts';
import { createMailer } from '../notify/mail.ts';
import { Notifier, notificationErrors } from '../notify/notifier.ts';
import { createWebhook, webhookSecret } from '../notify/webhook.ts';
import type { RequestContext } from '../request-context.ts';
import { ApiKeyService } from '../services/access/api-keys.ts';
import { SignedLinks } from '../services/access/signed-links.ts';
import { ChatService } from '../services/chat/chat.ts';
import { Checkpoints } from '../services/chat/checkpoints.ts';
import { Generations } from '../services/chat/generations.ts';
import { IdempotentTurns } from '../services/chat/idempotent-turns.ts';
import { InputFilter } from '../services/chat/input-filter.ts';
import { StoredStreams } from '../services/chat/stored-streams.ts';
import { StreamService } from '../services/chat/streams.ts';
import { TurnRecorder } from '../services/chat/turn-recorder.ts';
import { ConversationService } from '../services/conversations/conversations.ts';
import { PurgeService } from '../services/conversations/purge.ts';
import { CursorCodec } from '../services/exports/cursor-codec.ts';
import { ExportService } from '../services/exports/exports.ts';
import { JobRunner } from '../services/exports/job-runner.ts';
import { ExportJobService, progressOf } from '../services/exports/jobs.ts';
import { PurgeArchiver } from '../services/exports/purge-archiver.ts';
import { ExportThrottle } from '../services/exports/throttle.ts';
import { HealthService } from '../services/health.ts';
import { type ContentFilter, openContentFilter } from '../startup/open-content-filter.ts';
import { drain } from '../startup/shutdown.ts';
import { listenError, StartError } from '../startup/start-error.ts';

/** What tests put in place of the real thing. */
export interface Overrides {
  readonly clock?: Clock;
  readonly ids?: IdSource;
  readonly requestTimeoutMs?: number;
  readonly headersTimeoutMs?: number;
  /** When the model server counts as broken. */
  readonly breaker?: Partial<BreakerOptions>;
  /** How often the list of words is looked at. */
  readonly lookAtWordsMs?: number;
}

export interface RunningServer {
  readonly url: string;
  readonly database: Database;
  /** Ends in order: not ready, no new connections, replies finish within the grace, saved, closed. Once is enough. */
  stop(): Promise<void>;
}

const systemClock: Clock = { now: () => Date.now() };

/**
 * @returns after the port is open
 * @throws StartError, and whatever nobody foresaw
 */
export async function startServer(
  config: Config,
  version: string,
  log: Logger,
  context: RequestContext,
  overrides: Overrides = {},
): Promise<RunningServer> {
  const ids = overrides.ids ?? createIdSource();
  const worker = ids.next();
  const filter = await openContentFilter(config.filter, log, overrides.lookAtWordsMs);
  const storage = await openStorage(config, worker, log).catch(async (error: unknown) => {
    await filter.stop();
    throw error;
  });
  const upstream = await openModel(config, log, overrides.breaker);
  const clock = overrides.clock ?? systemClock;
  const model = filter.stored ? filterReplies(upstream.model, filter.stored) : upstream.model;
  const services = buildServices(config, { ...storage, worker, model, filter, clock, ids, log });
  const closeParts = async () => {
    await upstream.close();
    await Promise.all([services.keys.close(), services.limits.close(), filter.stop()]);
    await storage.close();
  };
  await checkKeys(config, services.keys, log).catch(async (error: unknown) => {
    await closeParts();
    throw error;
  });
  const renderer = new ReplyRenderer(createTextFormat(), filter.output);
  const { messageMaxChars } = config.chat;
  const options = { ...config.http, ...config.auth, version, messageMaxChars };
  const app = createApp(options, { ...services, renderer, log, context });
  const server = new HttpServer(app, { bodyLimit: config.http.bodyLimit, log, ...overrides });
  const address = await server.listen(config.port, config.host).catch(async (error: unknown) => {
    await closeParts();
    throw listenError(error, config);
  });
  const purgeJob = startPurgeJob(services.purge, config.purgeCron, log);
  services.jobRunner.start();

  const stop = async () => {
    services.health.stop();
    await Promise.all([purgeJob.stop(), services.jobRunner.stop()]);
    await services.notifier.close();
    await drain(server, services.turns, services.generations, config.shutdownGraceMs);
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

/** Opens the database and sees to its schema; a database that is away is waited for in the background. */
async function openStorage(config: Config, worker: string, log: Logger) {
  const { database, durability } = openStore(config, worker, log);
  const quit = new AbortController();
  const { autoMigrate } = config.database;
  try {
    const schema = await prepareSchema(database, { autoMigrate, signal: quit.signal }, log);
    await durability.start();
    const close = async () => {
      quit.abort();
      await schema.done;
      await durability.close();
      await database.close();
    };
    return { database, writer: durability.writer, processes: durability.processes, close };
  } catch (error) {
    await durability.close();
    await database.close();
    throw startFault(error);
  }
}

/** What the database itself objects to is told in a line; whatever nobody foresaw stays as it is. */
function startFault(error: unknown): unknown {
  if (error instanceof PendingMigrationsError) return new StartError(error.message, error);
  const code = accessDeniedCode(error);
  return code === undefined ? error : new StartError(`the database refuses to be used (${code})`, error);
}

/**
 * A server that asks for keys and knows none serves nobody. One whose database is away may know some.
 * @throws StartError
 */
async function checkKeys(config: Config, keys: ApiKeyService, log: Logger): Promise<void> {
  if (!config.auth.required) return;
  try {
    if (await keys.any()) return;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    log.warn('whether there are any API keys is not known while the database is away');
    return;
  }
  const host = config.loopback ? '' : ` on HOST ${config.host}, which others can reach`;
  throw new StartError(
    `keys are asked for${host}, and there is none that could be used: make one with ` +
      'npm run keys -- create --owner NAME --scopes admin',
    undefined,
  );
}

function openStore(
  config: Config,
  worker: string,
  log: Logger,
): { database: Database; durability: Durability } {
  const { leaseMs, journalMaxBytes } = config.durability;
  try {
    const database = openDatabase(config.database, log);
    const options = { folder: config.dataDir, worker, leaseMs, journalMaxBytes };
    return { database, durability: openDurability(database, options, log) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StartError(`the database cannot be opened: ${reason}`, error);
  }
}

/** The client of the model server, with the demo model behind it where none is configured. */
async function openModel(config: Config, log: Logger, breaker: Partial<BreakerOptions> = {}) {
  const demo = config.model.demo ? await startDemoModel() : undefined;
  const baseUrl = demo?.baseUrl ?? config.model.baseUrl;
  const model = createChatModel({ ...config.model, baseUrl, breaker }, log);
  const close = async () => {
    await model.close();
    await demo?.close();
  };
  return { model, close };
}

interface ServiceParts {
  readonly database: Database;
  readonly writer: Durability['writer'];
  readonly processes: Durability['processes'];
  readonly model: ChatModel;
  readonly filter: ContentFilter;
  readonly worker: string;
  readonly clock: Clock;
  readonly ids: IdSource;
  readonly log: Logger;
}

function buildServices(config: Config, parts: ServiceParts) {
  const { database, writer, model, worker, clock, ids, log } = parts;
  const { conversations, replies } = database;
  const { ttlMs, maxGenerations } = config.chat;
  const cache = createResponseCache(config.cache.maxBytes, config.cache.ttlMs);
  const generations = new Generations(model, cache, maxGenerations, log);
  const checkpoints = new Checkpoints({ writer, replies, worker, log }, config.durability.checkpointMs);
  const recorder = new TurnRecorder({ writer, checkpoints, worker, clock, log }, ttlMs);
  const stored = new StoredStreams({ replies, pending: writer, log }, ttlMs);
  const idempotent = new IdempotentTurns(replies, recorder, stored);
  const { linkSecrets } = config;
  const secrets = async () => linkSecrets ?? [await database.secrets.get('link')];
  const cursors = new CursorCodec(secrets);
  const personal = { mask: maskPersonal, masked: config.piiMask.exports };
  const throttle = new ExportThrottle();
  const exports = new ExportService(database.exports, createCsvFormat(), cursors, clock, ttlMs, {
    personal,
    throttle,
  });
  const files = createExportFiles(join(config.dataDir, 'exports'));
  const store = database.exportJobs;
  const notifier = buildNotifier(config, { store, worker, clock, log, secrets });
  const notify = (signal: AbortSignal) => notifier.notify(signal);
  const jobRunner = new JobRunner({ store, files, exports, clock, worker, log, notify }, config.exports);
  const mail = config.notify.smtpUrl !== undefined;
  const { allowPrivate } = config.notify;
  const exportJobs = new ExportJobService({
    store,
    files,
    runner: jobRunner,
    clock,
    ids,
    notifyFaults: (asked) => notificationErrors(asked, { mail, allowPrivate }),
  });
  const forget = (conversationId: string) => {
    recorder.dropConversation(conversationId);
    writer.drop(conversationId);
  };
  return {
    clock,
    generations,
    turns: recorder,
    keys: new ApiKeyService({ store: database.apiKeys, clock, ids, log }),
    links: new SignedLinks(secrets),
    ...buildLimits(config, parts),
    chat: new ChatService(
      { ...config.chat, cacheByOwner: config.cacheByOwner },
      {
        conversations,
        pending: writer,
        generations,
        recorder,
        idempotent,
        throttle,
        filter: parts.filter.input && new InputFilter(parts.filter.input, !config.filter.store),
        clock,
        ids,
      },
    ),
    streams: new StreamService({ recorder, stored, replies, pending: writer, clock }, ttlMs),
    conversations: new ConversationService(conversations, writer, clock, ttlMs, forget),
    exports,
    cursors,
    exportJobs,
    jobRunner,
    notifier,
    health: new HealthService(conversations, model, writer, config.model.demo),
    purge: new PurgeService(database.purge, clock, ttlMs, log, purgeArchiver(config, database, clock, log)),
  };
}

function buildLimits(config: Config, { database, processes: alive, clock, log }: ServiceParts) {
  const { redisUrl } = config.limits;
  const sqlite = config.database.target.kind === 'sqlite';
  // Under PM2 the others are to come, when they are not there yet.
  const expected = cluster.isWorker ? config.workers : 1;
  const processes = sqlite ? () => 1 : () => Math.max(alive(), expected);
  const redis = redisUrl === undefined ? undefined : openRedisCounters(redisUrl);
  const store = redis ?? database.counters;
  const limiter = new Limiter({ store, processes, always: redis !== undefined, clock, log });
  const concurrency = new ConcurrencyLimiter(sqlite ? null : { limiter, processes, clock });
  const close = async () => {
    concurrency.stop();
    await limiter.stop();
    redis?.close();
  };
  return { limits: { close }, quotas: new Quotas(config.limits, { limiter, concurrency }) };
}

/** Undefined: what is purged is not archived. */
export function purgeArchiver(
  config: Config,
  database: Pick<Database, 'exports'>,
  clock: Clock,
  log: Logger,
): PurgeArchiver | undefined {
  if (!config.exports.archive) return undefined;
  const archive = createPurgeArchive(join(config.dataDir, 'archive'), log);
  return new PurgeArchiver(database.exports, archive, clock, config.chat.ttlMs);
}

interface NotifierNeeds {
  readonly store: Database['exportJobs'];
  readonly worker: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly secrets: () => Promise<readonly string[]>;
}

function buildNotifier(config: Config, { store, worker, clock, log, secrets }: NotifierNeeds): Notifier {
  const { smtpUrl, mailFrom, allowPrivate } = config.notify;
  const webhook = createWebhook({
    secret: async () => webhookSecret((await secrets())[0] ?? ''),
    present: (job) => presentJob(job, progressOf(job, clock.now())),
    allowPrivate,
    clock,
  });
  const mailer = smtpUrl === undefined ? undefined : createMailer({ smtpUrl, from: mailFrom });
  return new Notifier({ store, worker, mailer, webhook, clock, log });
}
