/** The composition root: builds every part once, in the order in which they need each other. */
import { createResponseCache } from './cache/response-cache.ts';
import type { Config } from './config.ts';
import { type Database, openDatabase } from './db/database.ts';
import { PendingMigrationsError, prepareSchema } from './db/prepare.ts';
import { AppError } from './domain/errors.ts';
import type { Clock, IdSource } from './domain/ports.ts';
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
import { Generations } from './services/generations.ts';
import { HealthService } from './services/health.ts';
import { PurgeService } from './services/purge.ts';
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

/** What keeps the server from starting and is to be mended outside of it: the message says what, in one line. */
export class StartError extends Error {
  constructor(message: string, cause: unknown) {
    super(message, { cause });
    this.name = 'StartError';
  }
}

/** After the grace, how long a broken-off reply may still take to be saved and its last event to leave. */
const LAST_WORDS_MS = 3000;

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
  const clock = overrides.clock ?? systemClock;
  const ids = overrides.ids ?? createIdSource();
  const { ttlMs } = config.chat;

  const database = openStore(config, log);
  const quit = new AbortController();
  const { autoMigrate } = config.database;
  const schema = await prepareSchema(database, { autoMigrate, signal: quit.signal }, log).catch(
    async (error: unknown) => {
      await database.close();
      throw error instanceof PendingMigrationsError ? new StartError(error.message, error) : error;
    },
  );
  const demo = config.model.demo ? await startDemoModel() : undefined;
  const model = createChatModel(demo ? { ...config.model, baseUrl: demo.baseUrl } : config.model, log);
  const cache = createResponseCache(config.cache.maxBytes, config.cache.ttlMs);
  const generations = new Generations(model, cache, config.chat.maxGenerations, log);
  const { conversations: repository, writer } = database;
  const chat = new ChatService(config.chat, {
    conversations: repository,
    writer,
    generations,
    clock,
    ids,
    log,
  });
  const conversations = new ConversationService(repository, clock, ttlMs);
  const health = new HealthService(repository, model, config.model.demo);
  const purge = new PurgeService(database.purge, clock, ttlMs, log);
  const text = createTextFormat();
  const options = { ...config.http, version, messageMaxChars: config.chat.messageMaxChars };
  const app = createApp(options, { chat, conversations, health, text, log, context });
  const server = new HttpServer(app, { bodyLimit: config.http.bodyLimit, ...overrides });
  const closeParts = async () => {
    await model.close();
    await demo?.close();
    await database.close();
  };
  const address = await server.listen(config.port, config.host).catch(async (error: unknown) => {
    quit.abort();
    await schema.done;
    await closeParts();
    throw new StartError(listenFault(error, config), error);
  });
  const purgeJob = startPurgeJob(purge, config.purgeCron, log);

  const stop = async () => {
    health.stop();
    await purgeJob.stop();
    quit.abort();
    await schema.done;
    await drain(server, chat, generations, config.shutdownGraceMs);
    await closeParts();
  };
  let stopping: Promise<void> | undefined;
  return {
    url: address.url,
    database,
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}

function openStore(config: Config, log: Logger): Database {
  try {
    return openDatabase(config.database, log);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StartError(`the database cannot be opened: ${reason}`, error);
  }
}

function listenFault(error: unknown, { host, port }: Config): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
  switch (code) {
    case 'EADDRINUSE':
      return `port ${port} on ${host} is in use: stop the other program, or set PORT`;
    case 'EACCES':
      return `port ${port} on ${host} is not for this user: set PORT to one above 1023`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `HOST ${host} is no address of this machine`;
    default:
      return `cannot listen on ${host}, port ${port} (${code})`;
  }
}

async function drain(
  server: HttpServer,
  chat: ChatService,
  generations: Generations,
  graceMs: number,
): Promise<void> {
  const { closed, force } = server.close();
  const finished = Promise.all([closed, generations.idle(), chat.idle()]).then(() => {});
  if (await within(graceMs, finished)) return;
  generations.abortAll(
    new AppError('shutting_down', 'This server is shutting down; ask again in a moment', { retryAfter: 3 }),
  );
  if (await within(LAST_WORDS_MS, finished)) return;
  force();
  await within(LAST_WORDS_MS, finished);
}

/** Whether `work` is done within `ms`. */
async function within(ms: number, work: Promise<void>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  const done = await Promise.race([work.then(() => true), late]);
  clearTimeout(timer);
  return done;
}
