/** Every setting: how its text is read, and its default. */
import { z } from 'zod';
import {
  apiKey,
  bytes,
  cron,
  decimal,
  headers,
  hostNames,
  integer,
  listenAddress,
  mailAddress,
  oneOf,
  onOff,
  prose,
  proxies,
  secrets,
  text,
} from './readers.ts';
import { baseUrl, databaseTarget, origins, redisUrl, smtpUrl } from './urls.ts';

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
  HOST: listenAddress().default('127.0.0.1'),
  PORT: integer(0, 65535).default(5010),
  DATABASE_URL: databaseTarget().optional(),
  DB_POOL_MIN: integer(0, 1000).default(0),
  DB_POOL_MAX: integer(1, 1000).default(10),
  DB_ACQUIRE_TIMEOUT_MS: integer(1, MAX_MS).default(5000),
  DB_QUERY_TIMEOUT_MS: integer(1, MAX_MS).default(10_000),
  DB_AUTO_MIGRATE: onOff().optional(),
  OPENAI_API_KEY: apiKey().optional(),
  OPENAI_BASE_URL: baseUrl().optional(),
  OPENAI_MODEL: text().default('gpt-4o-mini'),
  OPENAI_TIMEOUT_MS: integer(1, MAX_MS).default(60_000),
  OPENAI_FIRST_TOKEN_TIMEOUT_MS: integer(1, MAX_MS).default(30_000),
  OPENAI_IDLE_TIMEOUT_MS: integer(1, MAX_MS).default(30_000),
  OPENAI_MAX_RETRIES: integer(0, 10).default(2),
  OPENAI_HEADERS: headers().optional(),
  SYSTEM_PROMPT: prose().optional(),
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
  MAIL_FROM: mailAddress().optional(),
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
