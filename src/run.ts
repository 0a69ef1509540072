/** Loads the configuration, starts the server and stops it on a signal. */

import { flushCompileCache } from 'node:module';
import packageJson from '../package.json' with { type: 'json' };
import { type RunningServer, startServer } from './compose/index.ts';
import { type Config, loadConfig } from './config/config.ts';
import { ConfigError, loadEnvironment } from './config/environment.ts';
import { withoutSecrets } from './config/urls.ts';
import type { LogDestination } from './log-destination.ts';
import { createLogger, type Logger, openLogDestination } from './logger.ts';
import { RequestContext } from './request-context.ts';
import { StartError } from './startup/start-error.ts';

const LAST_LINES_MS = 100;
/** After the grace period. A running server needs less; a migration may not end. */
const EXIT_AFTER_MS = 2800;

function fail(message: string): never {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

function readConfig(): Config {
  try {
    return loadConfig(loadEnvironment(), process.stdout.isTTY);
  } catch (error) {
    if (error instanceof ConfigError) fail(`The server cannot start with these settings:\n${error.message}`);
    throw error;
  }
}

/** Ends the process when the log file cannot be opened. */
async function openLog({ log: { file, pretty } }: Config): Promise<LogDestination | undefined> {
  try {
    return await openLogDestination({ file, pretty });
  } catch (error) {
    const reason = String(error).replace('Error: ', '');
    return fail(`The server cannot start: LOG_FILE ${file} cannot be opened: ${reason}`);
  }
}

/** The rate limits in force, which come with AUTH=required. */
function limitsOf({ limits }: Config): { limits?: Record<string, number> } {
  const all = {
    requests_per_minute: limits.requestsPerMinute,
    open_streams: limits.openStreams,
    tokens_per_day: limits.tokensPerDay,
    exports_per_hour: limits.exportsPerHour,
    auth_failures_per_minute: limits.authFailuresPerMinute,
  };
  const inForce = Object.entries(all).filter(([, limit]) => limit > 0);
  return inForce.length === 0 ? {} : { limits: Object.fromEntries(inForce) };
}

function logStart(log: Logger, config: Config, server: RunningServer): void {
  for (const warning of config.warnings) log.warn(warning);
  const upstream = config.model.demo
    ? 'demo model, answers are canned'
    : withoutSecrets(config.model.baseUrl ?? 'api.openai.com');
  const fields = {
    url: server.url,
    database: server.database.describe(),
    upstream,
    model: config.chat.model,
    ...limitsOf(config),
  };
  log.info(
    { ...fields, changed: config.changed },
    `chat-api-server ${packageJson.version} listens on ${server.url}`,
  );
}

/**
 * Signals of Unix and of a terminal on Windows, and the message PM2 sends on Windows, where SIGHUP means that the
 * console is closed.
 */
function onStop(stop: (reason: string) => Promise<void>): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop(signal));
  if (process.platform === 'win32') process.once('SIGHUP', () => void stop('SIGHUP'));
  else process.on('SIGHUP', reopenLog);
  process.on('message', (message) => {
    if (message === 'shutdown') void stop('shutdown message');
  });
}

/** As log rotation needs it. */
function reopenLog(): void {
  try {
    destination?.reopen();
    if (config.log.file !== undefined) log.info('log file reopened');
  } catch (error) {
    log.error({ err: error }, 'log file could not be reopened');
  }
}

/** Under PM2 the last log lines travel through a pipe that needs time to drain. */
function exitSoon(code: number): void {
  log.flush();
  setTimeout(() => process.exit(code), LAST_LINES_MS);
}

const config = readConfig();
const destination = await openLog(config);
const context = new RequestContext();
const log = createLogger({ ...config.log, masked: config.piiMask.logs }, () => context.fields(), destination);
// A reader that has gone must not end the process.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

process.on('unhandledRejection', (error) => log.error({ err: error }, 'unhandled rejection'));

const quit = new AbortController();
const starting = startServer(config, packageJson.version, log, context, { signal: quit.signal });

/** A signal during the start ends it, but waits for a migration. */
onStop(async (reason) => {
  log.info({ reason }, 'stopping');
  setTimeout(() => {
    log.error({ grace_ms: config.shutdownGraceMs }, 'shutdown deadline exceeded');
    exitSoon(1);
  }, config.shutdownGraceMs + EXIT_AFTER_MS).unref();
  quit.abort();
  const server = await starting.catch(() => undefined);
  if (!server) return;
  try {
    await server.stop();
    log.info('stopped');
    exitSoon(0);
  } catch (error) {
    log.fatal({ err: error }, 'could not stop cleanly');
    exitSoon(1);
  }
});

try {
  logStart(log, config, await starting);
  process.send?.('ready');
  // Now and not at exit alone: a process that is killed writes nothing.
  flushCompileCache();
} catch (error) {
  if (quit.signal.aborted) {
    log.info('stopped');
    exitSoon(0);
  } else if (error instanceof StartError) {
    process.stderr.write(`The server cannot start: ${error.message}\n`);
    if (config.log.file !== undefined) log.fatal(`could not start: ${error.message}`);
    exitSoon(1);
  } else {
    log.fatal({ err: error }, 'could not start');
    exitSoon(1);
  }
}
