import cluster from 'node:cluster';
import {
  type DestinationStream,
  type Logger,
  type LoggerOptions,
  pino,
  stdSerializers,
  stdTimeFunctions,
} from 'pino';
import { errorCode } from './domain/errors.ts';
import { maskLogLine } from './filter/pii/log.ts';
import { LogDestination } from './log-destination.ts';
import { escapeLineBreaks } from './util/line-json.ts';

export type { Logger };

/** Fields that may carry a secret; their values are removed from every line. */
const REDACTED = ['authorization', 'cookie', 'apiKey', 'api_key', 'password', 'token', 'x-api-key'];

/**
 * Messages of database drivers quote data (a duplicate key, a value that is too long), and their errors carry the
 * statement. Only type, code and stack frames of those are logged.
 */
function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return stdSerializers.err(error as Error);
  const code = errorCode(error);
  const fromDriver = 'sql' in error || 'sqlState' in error || (code?.startsWith('SQLITE_') ?? false);
  const cause = error.cause === undefined ? {} : { cause: serializeError(error.cause) };
  const places = (error.stack ?? '').split('\n').filter((line) => /^\s+at /.test(line));
  return {
    type: error.name,
    ...(code === undefined ? {} : { code }),
    ...(fromDriver ? {} : { message: error.message }),
    stack: places.join('\n'),
    ...cause,
  };
}

export interface LogOptions {
  readonly level: string;
  /** Whether personal data is masked in every line. */
  readonly masked?: boolean;
  /** Appended to, created with its folder if missing; undefined: standard output. */
  readonly file: string | undefined;
}

/**
 * @param fields added to every line, such as the request id
 * @param stream by default the one for a process in a cluster
 */
export function createLogger(
  options: LogOptions,
  fields: () => object,
  stream: DestinationStream = process.stdout,
): Logger {
  const settings: LoggerOptions = {
    level: options.level,
    base: { pid: process.pid },
    timestamp: stdTimeFunctions.isoTime,
    // A copy, because pino adds the line's own fields to what it gets.
    mixin: () => ({ ...fields() }),
    formatters: { level: (level) => ({ level }) },
    serializers: { err: serializeError },
    redact: {
      paths: REDACTED.flatMap((name) => [`["${name}"]`, `headers["${name}"]`]),
      censor: '[redacted]',
    },
    hooks: {
      streamWrite: (line) => escapeLineBreaks(options.masked ? maskLogLine(line) : line),
    },
  };
  const log = pino(settings, stream);
  if (stream instanceof LogDestination) stream.onDropped((count) => log.warn({ count }, 'log lines dropped'));
  return log;
}

/**
 * Standard output or the file; flushed at exit. Undefined in a cluster (PM2), whose manager reads process.stdout:
 * writes to descriptor 1 are lost there.
 * @throws the system's error when the file cannot be opened
 */
export async function openLogDestination({
  file,
  pretty,
}: Pick<LogOptions, 'file'> & { readonly pretty: boolean }): Promise<LogDestination | undefined> {
  if (cluster.isWorker && file === undefined) return undefined;
  const destination = new LogDestination({ file, ...(pretty && { format: await prettyFormat(file) }) });
  process.on('exit', () => destination.exit());
  return destination;
}

async function prettyFormat(file: string | undefined): Promise<(line: string) => string> {
  const { createLineFormat } = await import('./log-format.ts');
  return createLineFormat(file === undefined && process.stdout.isTTY);
}
