import cluster from 'node:cluster';
import {
  type DestinationStream,
  type Logger,
  type LoggerOptions,
  pino,
  stdSerializers,
  stdTimeFunctions,
} from 'pino';
import pretty from 'pino-pretty';
import { maskLogLine } from './filter/pii/log.ts';

export type { Logger };

/** Names under which a secret could ever travel through a log call; the values are cut out of every line. */
const REDACTED = ['authorization', 'cookie', 'apiKey', 'api_key', 'password', 'token', 'x-api-key'];

/**
 * An error as it is logged. Messages of database drivers quote data (a key that is there twice, a value that is too
 * long), and their errors carry the statement: of those only kind, code and the places in our code are written.
 */
function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return stdSerializers.err(error as Error);
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined;
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
  readonly pretty: boolean;
  /** Whether personal data is masked in every line. */
  readonly masked?: boolean;
  /** Appended to, made with its folder where missing; undefined: standard output. */
  readonly file: string | undefined;
}

/**
 * The process's logger.
 * @param fields what every line carries besides, such as the request id
 * @param stream where the lines go instead, for tests
 */
export function createLogger(options: LogOptions, fields: () => object, stream?: DestinationStream): Logger {
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
  return pino(settings, stream ?? destination(options));
}

/** How long a line may wait for others to be written with, and how many bytes are not kept waiting. */
const GATHER_MS = 100;
const GATHER_BYTES = 8 * 1024;

/**
 * JSON lines are gathered for a tenth of a second and flushed at exit: a write for each took a tenth of the cost of a
 * cached reply. A person at a terminal gets each line at once.
 */
function destination({ pretty: readable, file }: LogOptions): DestinationStream {
  // In a cluster (PM2) the manager takes the lines from process.stdout; what goes to the bare descriptor is lost.
  if (cluster.isWorker && file === undefined) return process.stdout;
  if (!readable) {
    return pino.destination({
      dest: file ?? 1,
      mkdir: true,
      sync: false,
      minLength: GATHER_BYTES,
      periodicFlush: GATHER_MS,
    });
  }
  return pretty({
    destination: file ?? 1,
    mkdir: true,
    sync: true,
    colorize: file === undefined && process.stdout.isTTY,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid',
  });
}
