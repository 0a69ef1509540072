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

/** @param fields added to every line, such as the request id */
export function createLogger(
  options: LogOptions,
  fields: () => object,
  stream: DestinationStream = jsonDestination(options.file),
): Logger {
  const settings: LoggerOptions = {
    level: options.level,
    base: { pid: process.pid },
    timestamp: stdTimeFunctions.isoTime,
    mixin: fields,
    serializers: { err: serializeError },
    redact: {
      paths: REDACTED.flatMap((name) => [`["${name}"]`, `headers["${name}"]`]),
      censor: '[redacted]',
    },
    ...(options.masked && { hooks: { streamWrite: maskLogLine } }),
  };
  return pino(settings, stream);
}

/**
 * Lines are buffered for up to this time or size and flushed at exit. One write for each line took a tenth of the cost
 * of a cached reply.
 */
const FLUSH_INTERVAL_MS = 100;
const BUFFER_BYTES = 8 * 1024;

function jsonDestination(file: string | undefined): DestinationStream {
  // In a cluster (PM2) the manager reads the lines from process.stdout; writes to descriptor 1 are lost.
  if (cluster.isWorker && file === undefined) return process.stdout;
  return pino.destination({
    dest: file ?? 1,
    mkdir: true,
    sync: false,
    minLength: BUFFER_BYTES,
    periodicFlush: FLUSH_INTERVAL_MS,
  });
}

/** Writes each line immediately, for a person at a terminal. */
export async function prettyDestination(file: string | undefined): Promise<DestinationStream> {
  if (cluster.isWorker && file === undefined) return process.stdout;
  const { default: pretty } = await import('pino-pretty');
  return pretty({
    destination: file ?? 1,
    mkdir: true,
    sync: true,
    colorize: file === undefined && process.stdout.isTTY,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid',
  });
}
