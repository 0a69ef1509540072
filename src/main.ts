/** Loads the configuration, starts the server, ends it on a signal. */

import packageJson from '../package.json' with { type: 'json' };
import { type RunningServer, startServer } from './compose.ts';
import { type Config, ConfigError, loadConfig, loadEnvironment } from './config.ts';
import { createLogger, type Logger } from './logger.ts';
import { RequestContext } from './request-context.ts';

const LAST_LINES_MS = 100;

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

function logStart(log: Logger, config: Config, server: RunningServer): void {
  for (const warning of config.warnings) log.warn(warning);
  const upstream = config.model.demo
    ? 'demo model, answers are canned'
    : (config.model.baseUrl ?? 'api.openai.com');
  const fields = {
    url: server.url,
    database: server.database.describe(),
    upstream,
    model: config.chat.model,
  };
  log.info(
    { ...fields, changed: config.changed },
    `chat-api-server ${packageJson.version} listens on ${server.url}`,
  );
}

/** Signals of Unix and of a terminal on Windows, and the message PM2 sends on Windows. */
function onStop(stop: (reason: string) => void): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop(signal));
  process.on('message', (message) => {
    if (message === 'shutdown') stop('shutdown message');
  });
}

const config = readConfig();
const context = new RequestContext();
const log = createLogger(config.log, () => context.fields());

process.on('unhandledRejection', (error) =>
  log.error({ err: error }, 'a promise failed and nobody had asked for it'),
);

try {
  const server = await startServer(config, packageJson.version, log, context);
  onStop((reason) => {
    log.info({ reason }, 'stopping');
    server.stop().then(
      () => {
        log.info('stopped');
        // Under PM2 the last lines travel by a stream of their own; nothing else is left to wait for.
        setTimeout(() => process.exit(0), LAST_LINES_MS);
      },
      (error: unknown) => {
        log.fatal({ err: error }, 'could not stop cleanly');
        process.exit(1);
      },
    );
  });
  logStart(log, config, server);
  process.send?.('ready');
} catch (error) {
  log.fatal({ err: error }, 'could not start');
  process.exitCode = 1;
  log.flush();
}
