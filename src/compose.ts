/** The composition root: builds every part once, in the order in which they need each other. */
import { createResponseCache } from './cache/response-cache.ts';
import type { Config } from './config.ts';
import { createCsvFormat } from './csv/format.ts';
import { type Database, openDatabase } from './db/database.ts';
import { refusalOf } from './db/errors.ts';
import { PendingMigrationsError, prepareSchema } from './db/prepare.ts';
import type { ChatModel, Clock, IdSource } from './domain/ports.ts';
import { createApp } from './http/app.ts';
import { HttpServer } from './http/server.ts';
import { createIdSource } from './ids.ts';
import { startPurgeJob } from './jobs/purge-job.ts';
import { startDemoModel } from './llm/demo.ts';
import { createChatModel } from './llm/model.ts';
import type { Logger } from './logger.ts';
import type { RequestContext } from './request-context.ts';
import { ChatService } from './services/chat.ts';
import { ConversationService } from './services/conversations.ts';
import { ExportService } from './services/exports.ts';
import { Generations } from './services/generations.ts';
import { HealthService } from './services/health.ts';
import { PurgeService } from './services/purge.ts';
import { drain } from './shutdown.ts';
import { listenError, StartError } from './start-error.ts';
import { createTextFormat } from './text/index.ts';

/** What tests put in place of the real thing. */
export interface Overrides {
  readonly clock?: Clock;
  readonly ids?: IdSource;
  readonly requestTimeoutMs?: number;
  readonly headersTimeoutMs?: number;
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
  const storage = await openStorage(config, log);
  const upstream = await openModel(config, log);
  const closeParts = async () => {
    await upstream.close();
    await storage.close();
  };
  const services = buildServices(config, storage.database, upstream.model, log, overrides);
  const text = createTextFormat();
  const options = { ...config.http, version, messageMaxChars: config.chat.messageMaxChars };
  const app = createApp(options, { ...services, text, log, context });
  const server = new HttpServer(app, { bodyLimit: config.http.bodyLimit, ...overrides });
  const address = await server.listen(config.port, config.host).catch(async (error: unknown) => {
    await closeParts();
    throw listenError(error, config);
  });
  const purgeJob = startPurgeJob(services.purge, config.purgeCron, log);

  const stop = async () => {
    services.health.stop();
    await purgeJob.stop();
    await drain(server, services.chat, services.generations, config.shutdownGraceMs);
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
async function openStorage(config: Config, log: Logger) {
  const database = openStore(config, log);
  const quit = new AbortController();
  const { autoMigrate } = config.database;
  try {
    const schema = await prepareSchema(database, { autoMigrate, signal: quit.signal }, log);
    const close = async () => {
      quit.abort();
      await schema.done;
      await database.close();
    };
    return { database, close };
  } catch (error) {
    await database.close();
    throw startFault(error);
  }
}

/** What the database itself objects to is told in a line; whatever nobody foresaw stays as it is. */
function startFault(error: unknown): unknown {
  if (error instanceof PendingMigrationsError) return new StartError(error.message, error);
  const code = refusalOf(error);
  return code === undefined ? error : new StartError(`the database refuses to be used (${code})`, error);
}

function openStore(config: Config, log: Logger): Database {
  try {
    return openDatabase(config.database, log);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StartError(`the database cannot be opened: ${reason}`, error);
  }
}

/** The client of the model server, with the demo model behind it where none is configured. */
async function openModel(config: Config, log: Logger) {
  const demo = config.model.demo ? await startDemoModel() : undefined;
  const model = createChatModel(demo ? { ...config.model, baseUrl: demo.baseUrl } : config.model, log);
  const close = async () => {
    await model.close();
    await demo?.close();
  };
  return { model, close };
}

function buildServices(
  config: Config,
  database: Database,
  model: ChatModel,
  log: Logger,
  overrides: Overrides,
) {
  const { conversations: repository, writer, purge: store } = database;
  const clock = overrides.clock ?? systemClock;
  const ids = overrides.ids ?? createIdSource();
  const { ttlMs, maxGenerations } = config.chat;
  const cache = createResponseCache(config.cache.maxBytes, config.cache.ttlMs);
  const generations = new Generations(model, cache, maxGenerations, log);
  const parts = { conversations: repository, writer, generations, clock, ids, log };
  return {
    clock,
    generations,
    chat: new ChatService(config.chat, parts),
    conversations: new ConversationService(repository, clock, ttlMs),
    exports: new ExportService(database.exports, createCsvFormat(), clock, ttlMs),
    health: new HealthService(repository, model, config.model.demo),
    purge: new PurgeService(store, clock, ttlMs, log),
  };
}
