/** How one environment variable is read: text in, value out, and a sentence for what is allowed. */
import { validate as isCronPattern } from 'node-cron';
import { compile as compileSubnets } from 'proxy-addr';
import { z } from 'zod';

type Read<T> = (text: string) => T | undefined;

/** A setting whose text `read` turns into a value; undefined means "not allowed", and `allowed` says what is. */
function setting<T>(allowed: string, read: Read<T>) {
  return z.string().transform((text, context): T => {
    const value = read(text);
    if (value !== undefined) return value;
    context.addIssue({ code: 'custom', message: `must be ${allowed}` });
    return z.NEVER;
  });
}

const integer = (min: number, max: number) =>
  setting(`a whole number from ${min} to ${max}`, (text) => {
    const value = Number(text);
    return /^\d+$/.test(text) && value >= min && value <= max ? value : undefined;
  });

const decimal = (min: number, max: number) =>
  setting(`a number from ${min} to ${max}`, (text) => {
    const value = Number(text);
    return /^\d+(\.\d+)?$/.test(text) && value >= min && value <= max ? value : undefined;
  });

const oneOf = <const T extends string>(...values: T[]) =>
  setting(`one of ${values.join(', ')}`, (text) => values.find((value) => value === text));

const text = () => setting('text', (value) => value);

const UNITS: Record<string, number> = { '': 1, b: 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3 };

/** `65536`, `64kb`, `64 MiB`: units are powers of 1024, in any case. */
const bytes = (min: number, max: number) =>
  setting(`a size in bytes, or with kb, mb or gb (1 kb = 1024), from ${min} to ${max} bytes`, (value) => {
    const match = /^(\d+(?:\.\d+)?)\s*(?:(b)|([kmg])(?:i?b)?)?$/i.exec(value);
    if (!match) return undefined;
    const size = Math.floor(Number(match[1]) * (UNITS[(match[3] ?? '').toLowerCase()] ?? 1));
    return size >= min && size <= max ? size : undefined;
  });

const onOff = () =>
  setting(
    'on or off',
    (value) => ({ on: true, true: true, 1: true, off: false, false: false, 0: false })[value],
  );

const httpUrl = () =>
  setting('an http:// or https:// URL', (value) => {
    const url = URL.canParse(value) ? new URL(value) : undefined;
    return url && /^https?:$/.test(url.protocol) ? value.replace(/\/+$/, '') : undefined;
  });

const databaseUrl = () =>
  setting('sqlite:<file> or mysql://user:password@host:3306/database', (value) => {
    if (/^sqlite:./.test(value)) return value;
    const url = /^(mysql|mariadb):\/\//.test(value) && URL.canParse(value) ? new URL(value) : undefined;
    return url && url.hostname !== '' && url.pathname.length > 1 ? value : undefined;
  });

const smtpUrl = () =>
  setting('smtp://user:password@host:587 or smtps://user:password@host:465', (value) => {
    const url = URL.canParse(value) ? new URL(value) : undefined;
    return url && /^smtps?:$/.test(url.protocol) && url.hostname !== '' ? value : undefined;
  });

const SECRET_MIN = 24;

const secrets = () =>
  setting(
    `a secret of at least ${SECRET_MIN} characters, or several with commas between: the one to sign with, then older ones`,
    (value) => {
      const list = value.split(',').map((part) => part.trim());
      return list.every((part) => part.length >= SECRET_MIN) ? list : undefined;
    },
  );

const redisUrl = () =>
  setting('redis://user:password@host:6379/0 or rediss://…', (value) => {
    const url = URL.canParse(value) ? new URL(value) : undefined;
    return url && /^rediss?:$/.test(url.protocol) && url.hostname !== '' ? value : undefined;
  });

const HOST_NAME = /^(?=.{1,253}$)[a-z\d_-]+(?:\.[a-z\d_-]+)*$|^\[[\da-f:.]+\]$/;

const hostNames = () =>
  setting('names of hosts without ports, separated by commas, such as chat.example.com', (value) => {
    const list = value.split(',').map((part) => part.trim().toLowerCase());
    return list.every((part) => HOST_NAME.test(part)) ? list : undefined;
  });

const headers = () =>
  setting('a JSON object whose values are strings, such as {"x-team":"blue"}', (value) => {
    try {
      const parsed = z.record(z.string().regex(/^[\w-]+$/), z.string()).safeParse(JSON.parse(value));
      return parsed.success ? parsed.data : undefined;
    } catch {
      return undefined;
    }
  });

const origins = () =>
  setting('* or origins such as https://chat.example.com, separated by commas', (value) => {
    if (value === '*') return '*' as const;
    const list = value.split(',').map((part) => part.trim());
    return list.every((part) => URL.canParse(part) && new URL(part).origin === part) ? list : undefined;
  });

const proxies = () =>
  setting(
    'a number of hops (0 to 32) or subnets separated by commas, such as 10.0.0.0/8,loopback; never true',
    (value) => {
      if (/^\d+$/.test(value)) return Number(value) <= 32 ? Number(value) : undefined;
      const list = value.split(',').map((part) => part.trim());
      try {
        // The parser that Express uses for "trust proxy".
        compileSubnets(list);
        return list;
      } catch {
        return undefined;
      }
    },
  );

const cron = () =>
  setting('a cron pattern such as 17 * * * *', (value) => (isCronPattern(value) ? value : undefined));

/** What a model server does not accept, as the member of the request that stands for it. */
const REFUSED_MEMBERS = {
  no_stream_options: 'stream_options',
  no_temperature: 'temperature',
  max_completion_tokens: 'max_tokens',
} as const;

const compatibility = () =>
  setting(`one or more of ${Object.keys(REFUSED_MEMBERS).join(', ')}, separated by commas`, (value) => {
    const names = new Map<string, RefusedMember>(Object.entries(REFUSED_MEMBERS));
    const members = value.split(',').map((part) => names.get(part.trim()));
    return members.every((member) => member !== undefined) ? members : undefined;
  });

type RefusedMember = (typeof REFUSED_MEMBERS)[keyof typeof REFUSED_MEMBERS];

const MAX_MS = 2 ** 31 - 1;
const MiB = 1024 ** 2;

/** Every setting of this version, by the name of its environment variable. */
export const settingsSchema = z.object({
  HOST: text().default('127.0.0.1'),
  PORT: integer(0, 65535).default(5010),
  DATABASE_URL: databaseUrl().optional(),
  DB_POOL_MIN: integer(0, 1000).default(0),
  DB_POOL_MAX: integer(1, 1000).default(10),
  DB_ACQUIRE_TIMEOUT_MS: integer(1, MAX_MS).default(5000),
  DB_QUERY_TIMEOUT_MS: integer(1, MAX_MS).default(10_000),
  DB_AUTO_MIGRATE: onOff().optional(),
  OPENAI_API_KEY: text().optional(),
  OPENAI_BASE_URL: httpUrl().optional(),
  OPENAI_MODEL: text().default('gpt-4o-mini'),
  OPENAI_TIMEOUT_MS: integer(1, MAX_MS).default(60_000),
  OPENAI_FIRST_TOKEN_TIMEOUT_MS: integer(1, MAX_MS).default(30_000),
  OPENAI_IDLE_TIMEOUT_MS: integer(1, MAX_MS).default(30_000),
  OPENAI_MAX_RETRIES: integer(0, 10).default(2),
  OPENAI_HEADERS: headers().optional(),
  SYSTEM_PROMPT: text().optional(),
  OPENAI_TEMPERATURE: decimal(0, 2).optional(),
  OPENAI_MAX_TOKENS: integer(1, 10_000_000).optional(),
  OPENAI_COMPAT: compatibility().default([]),
  HISTORY_LIMIT: integer(0, 1000).default(10),
  HISTORY_MAX_TOKENS: integer(1, 100_000_000).optional(),
  MESSAGE_MAX_CHARS: integer(1, 4_000_000).default(32_000),
  BODY_LIMIT: bytes(1024, 64 * MiB).default(MiB),
  CACHE_MAX_BYTES: bytes(0, Number.MAX_SAFE_INTEGER).default(64 * MiB),
  CACHE_TTL_SECONDS: integer(0, 31_536_000).default(3600),
  MAX_GENERATIONS: integer(1, 1_000_000).default(2000),
  REPLY_MAX_BYTES: bytes(1024, 15 * MiB).default(4 * MiB),
  REPLY_MAX_MS: integer(1, MAX_MS).default(600_000),
  CHECKPOINT_MS: integer(50, 1000).default(500),
  STREAM_LEASE_MS: integer(300, 3_600_000).default(15_000),
  JOURNAL_MAX_BYTES: bytes(MiB, Number.MAX_SAFE_INTEGER).default(256 * MiB),
  WEB_CONCURRENCY: integer(1, 1024).optional(),
  CONVERSATION_TTL_HOURS: decimal(0, 876_000).default(24),
  PURGE_CRON: cron().default('17 * * * *'),
  PURGE_ARCHIVE: onOff().default(false),
  EXPORT_MAX_JOBS: integer(1, 100).default(2),
  EXPORT_KEEP_HOURS: decimal(0.1, 876_000).default(72),
  LINK_SECRET: secrets().optional(),
  SMTP_URL: smtpUrl().optional(),
  MAIL_FROM: text().optional(),
  WEBHOOK_ALLOW_PRIVATE: onOff().default(false),
  CORS_ORIGINS: origins().optional(),
  TRUST_PROXY: proxies().default(0),
  LOG_LEVEL: oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent').default('info'),
  LOG_FORMAT: oneOf('pretty', 'json').optional(),
  LOG_FILE: text().optional(),
  LOG_UPSTREAM_ERRORS: onOff().default(true),
  DATA_DIR: text().default('./data'),
  SHUTDOWN_GRACE_MS: integer(0, MAX_MS).default(25_000),
  SSE_HEARTBEAT_MS: integer(10, MAX_MS).default(10_000),
  SSE_OPEN_MS: integer(0, MAX_MS).default(1000),
  AUTH: oneOf('off', 'required').optional(),
  ALLOWED_HOSTS: hostNames().optional(),
  REDIS_URL: redisUrl().optional(),
  CACHE_SCOPE: oneOf('owner', 'global').default('owner'),
  RATE_LIMIT_REQUESTS: integer(0, 1_000_000_000).optional(),
  RATE_LIMIT_STREAMS: integer(0, 1_000_000).optional(),
  RATE_LIMIT_TOKENS: integer(0, Number.MAX_SAFE_INTEGER).optional(),
  RATE_LIMIT_EXPORTS: integer(0, 1_000_000_000).optional(),
  RATE_LIMIT_AUTH_FAILURES: integer(0, 1_000_000_000).optional(),
  CONTENT_FILTER_FILE: text().optional(),
  CONTENT_FILTER_INPUT: oneOf('mask', 'block', 'off').default('mask'),
  CONTENT_FILTER_OUTPUT: oneOf('mask', 'block', 'off').default('mask'),
  CONTENT_FILTER_STORE: oneOf('original', 'filtered').default('original'),
  PII_MASK: oneOf('off', 'logs', 'exports', 'on').default('off'),
});

export type Settings = z.output<typeof settingsSchema>;

/** Their values are never printed, neither in an error nor in the log. */
export const SECRET_SETTINGS: ReadonlySet<string> = new Set([
  'DATABASE_URL',
  'OPENAI_API_KEY',
  'OPENAI_HEADERS',
  'SYSTEM_PROMPT',
  'LINK_SECRET',
  'SMTP_URL',
  'REDIS_URL',
]);
