/** Environment → frozen configuration. */
import { isIPv4 } from 'node:net';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import {
  changedSettings,
  crossErrors,
  PROXY_VARIABLES,
  proxyErrors,
  readSettings,
  warningsOf,
} from './checks.ts';
import { ConfigError, type Environment, withoutEmpty } from './environment.ts';
import type { Settings } from './settings.ts';
import type { DatabaseTarget } from './urls.ts';

export interface DatabaseConfig {
  readonly target: DatabaseTarget;
  readonly poolMin: number;
  readonly poolMax: number;
  readonly acquireTimeoutMs: number;
  readonly queryTimeoutMs: number;
  readonly textMaxBytes: number;
  readonly autoMigrate: boolean;
}

type FilterAction = 'mask' | 'block' | 'off';

export interface Config {
  readonly host: string;
  readonly port: number;
  readonly loopback: boolean;
  readonly dataDir: string;
  readonly shutdownGraceMs: number;
  readonly workers: number;
  readonly database: DatabaseConfig;
  readonly model: {
    /** The built-in demo model. */
    readonly demo: boolean;
    readonly apiKey: string | undefined;
    readonly baseUrl: string | undefined;
    /** The proxy variables, if Node's `NODE_USE_ENV_PROXY` says that they are used. */
    readonly proxyEnv: Readonly<Record<string, string | undefined>> | undefined;
    readonly headers: Readonly<Record<string, string>>;
    /** Members of the request that the model server does not accept. */
    readonly refused: readonly ('stream_options' | 'temperature' | 'max_tokens')[];
    readonly timeoutMs: number;
    readonly firstTokenTimeoutMs: number;
    readonly idleTimeoutMs: number;
    readonly maxRetries: number;
    readonly replyMaxBytes: number;
    readonly replyMaxMs: number;
    readonly reasoningTags: boolean;
    readonly logErrors: boolean;
    /** The second model server. */
    readonly fallback:
      | {
          readonly baseUrl: string | undefined;
          readonly apiKey: string | undefined;
          /** Undefined: the requested one. */
          readonly model: string | undefined;
        }
      | undefined;
  };
  /** The routes below `/v1`. */
  readonly v1: { readonly store: boolean; readonly cancelOnDisconnect: boolean; readonly cache: boolean };
  readonly chat: {
    readonly model: string;
    readonly systemPrompt: string | undefined;
    /** Sent unless a conversation or a turn says otherwise. */
    readonly parameters: { readonly temperature?: number; readonly max_tokens?: number };
    readonly historyLimit: number;
    readonly historyMaxTokens: number | undefined;
    readonly messageMaxChars: number;
    /** Of one image in a message, and of all images in a request. */
    readonly imageMaxBytes: number;
    readonly imagesMaxBytes: number;
    /** Whether callers may send the model server members that this server does not know. */
    readonly allowsExtra: boolean;
    readonly maxGenerations: number;
    /** 0: conversations never expire. */
    readonly ttlMs: number;
  };
  readonly durability: {
    /** Interval at which running replies are stored. */
    readonly checkpointMs: number;
    /** A process without a heartbeat for so long counts as dead; its replies are closed. */
    readonly leaseMs: number;
    readonly journalMaxBytes: number;
  };
  readonly cache: { readonly maxBytes: number; readonly ttlMs: number };
  readonly purgeCron: string;
  readonly exports: {
    /** Concurrent jobs of this process. */
    readonly maxJobs: number;
    /** How long ended jobs and their files are kept. */
    readonly keepMs: number;
    /** Archive conversations before they are purged. */
    readonly archive: boolean;
  };
  readonly notify: {
    /** Undefined: no mail. */
    readonly smtpUrl: string | undefined;
    readonly mailFrom: string | undefined;
    readonly allowPrivate: boolean;
  };
  /** The first one signs cursors, links and webhooks; all verify. Undefined: the secret in the database. */
  readonly linkSecrets: readonly string[] | undefined;
  readonly auth: {
    /** Whether requests need a key. */
    readonly required: boolean;
    /** Allowed `Host` names besides the loopback names; undefined allows all. */
    readonly hosts: readonly string[] | undefined;
  };
  /** Whether each owner has a response cache of their own. */
  readonly cacheByOwner: boolean;
  /** Per caller; 0 means no limit. */
  readonly limits: {
    readonly requestsPerMinute: number;
    readonly openStreams: number;
    readonly tokensPerDay: number;
    readonly exportsPerHour: number;
    readonly authFailuresPerMinute: number;
    /** Stores the counts of several processes; undefined: the database does. */
    readonly redisUrl: string | undefined;
  };
  readonly filter: {
    /** The word list; undefined: no filter. */
    readonly file: string | undefined;
    readonly input: FilterAction;
    readonly output: FilterAction;
    /** Whether stored texts are filtered too. */
    readonly store: boolean;
  };
  /** Where personal data is masked. */
  readonly piiMask: { readonly logs: boolean; readonly exports: boolean };
  readonly http: {
    readonly bodyLimit: number;
    /** Of an import, in bytes. */
    readonly importMaxBytes: number;
    readonly corsOrigins: '*' | 'loopback' | readonly string[];
    readonly trustProxy: number | readonly string[];
    readonly heartbeatMs: number;
    readonly openMs: number;
  };
  readonly metrics: {
    /** Worker i serves its own numbers at this port + i; undefined: no port. */
    readonly port: number | undefined;
    /** The place that PM2 has given this worker; undefined: the lowest free one. */
    readonly workerIndex: number | undefined;
    /** Whether the newer names of OpenTelemetry are added. */
    readonly newGenAiNames: boolean;
  };
  /** Turns beyond these times are logged with the parts of their time. */
  readonly slow: { readonly firstTokenMs: number; readonly replyMs: number };
  readonly log: { readonly level: string; readonly pretty: boolean; readonly file: string | undefined };
  /** Settings that differ from their defaults, secrets masked; for the start log. */
  readonly changed: Readonly<Record<string, string>>;
  readonly warnings: readonly string[];
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}

/** Blanks around values, and the quotes that `docker --env-file` keeps, are not part of them. */
function trimmed(environment: Environment): Record<string, string> {
  const { SYSTEM_PROMPT = '', ...others } = environment;
  const texts = Object.entries(others).map(([name, text = '']) => [
    name,
    text
      .trim()
      .replace(/^(["'])(.*)\1$/s, '$2')
      .trim(),
  ]);
  return withoutEmpty({ ...Object.fromEntries(texts), SYSTEM_PROMPT });
}

/** Neither key nor base URL. */
function isDemo({ OPENAI_API_KEY, OPENAI_BASE_URL }: Settings): boolean {
  return OPENAI_API_KEY === undefined && OPENAI_BASE_URL === undefined;
}

function modelConfig(settings: Settings, environment: Environment): Config['model'] {
  const demo = isDemo(settings);
  const usesProxy = environment.NODE_USE_ENV_PROXY === '1' && !demo;
  return {
    demo,
    proxyEnv: usesProxy
      ? Object.fromEntries(PROXY_VARIABLES.map((name) => [name, environment[name]]))
      : undefined,
    apiKey: settings.OPENAI_API_KEY,
    baseUrl: settings.OPENAI_BASE_URL,
    headers: settings.OPENAI_HEADERS ?? {},
    refused: settings.OPENAI_COMPAT,
    timeoutMs: settings.OPENAI_TIMEOUT_MS,
    firstTokenTimeoutMs: settings.OPENAI_FIRST_TOKEN_TIMEOUT_MS,
    idleTimeoutMs: settings.OPENAI_IDLE_TIMEOUT_MS,
    maxRetries: settings.OPENAI_MAX_RETRIES,
    replyMaxBytes: settings.REPLY_MAX_BYTES,
    replyMaxMs: settings.REPLY_MAX_MS,
    reasoningTags: settings.REASONING_TAGS,
    logErrors: settings.LOG_UPSTREAM_ERRORS,
    fallback: fallbackConfig(settings),
  };
}

function fallbackConfig(settings: Settings): Config['model']['fallback'] {
  const baseUrl = settings.OPENAI_FALLBACK_BASE_URL;
  const apiKey = settings.OPENAI_FALLBACK_API_KEY;
  if (baseUrl === undefined && apiKey === undefined) return undefined;
  return { baseUrl, apiKey, model: settings.OPENAI_FALLBACK_MODEL };
}

function chatConfig(settings: Settings, loopback: boolean): Config['chat'] {
  return {
    model: settings.OPENAI_MODEL ?? (isDemo(settings) ? 'demo' : 'gpt-4o-mini'),
    systemPrompt: settings.SYSTEM_PROMPT,
    parameters: {
      ...(settings.OPENAI_TEMPERATURE !== undefined && { temperature: settings.OPENAI_TEMPERATURE }),
      ...(settings.OPENAI_MAX_TOKENS !== undefined && { max_tokens: settings.OPENAI_MAX_TOKENS }),
    },
    historyLimit: settings.HISTORY_LIMIT,
    historyMaxTokens: settings.HISTORY_MAX_TOKENS,
    messageMaxChars: settings.MESSAGE_MAX_CHARS,
    imageMaxBytes: settings.IMAGE_MAX_BYTES,
    imagesMaxBytes: settings.IMAGES_MAX_BYTES,
    allowsExtra: settings.ALLOW_EXTRA_PARAMETERS ?? loopback,
    maxGenerations: settings.MAX_GENERATIONS,
    ttlMs: settings.CONVERSATION_TTL_HOURS * 3_600_000,
  };
}

function authConfig(settings: Settings, loopback: boolean): Config['auth'] {
  const required = asksForKeys(settings, loopback);
  // Without keys, web pages of other sites must not reach a server on the loopback (DNS rebinding).
  const closed = loopback && !required;
  return { required, hosts: settings.ALLOWED_HOSTS ?? (closed ? [] : undefined) };
}

function asksForKeys(settings: Settings, loopback: boolean): boolean {
  return (settings.AUTH ?? (loopback ? 'off' : 'required')) === 'required';
}

/** Without authentication, limits apply only if they are set. */
function limitsConfig(settings: Settings, loopback: boolean): Config['limits'] {
  const usual = (limit: number) => (asksForKeys(settings, loopback) ? limit : 0);
  return {
    requestsPerMinute: settings.RATE_LIMIT_REQUESTS ?? usual(60),
    openStreams: settings.RATE_LIMIT_STREAMS ?? usual(10),
    tokensPerDay: settings.RATE_LIMIT_TOKENS ?? 0,
    exportsPerHour: settings.RATE_LIMIT_EXPORTS ?? usual(20),
    authFailuresPerMinute: settings.RATE_LIMIT_AUTH_FAILURES ?? usual(10),
    redisUrl: settings.REDIS_URL,
  };
}

function metricsConfig(settings: Settings, { NODE_APP_INSTANCE }: Environment): Config['metrics'] {
  return {
    port: settings.METRICS_PORT,
    workerIndex: /^\d{1,4}$/.test(NODE_APP_INSTANCE ?? '') ? Number(NODE_APP_INSTANCE) : undefined,
    newGenAiNames: settings.METRICS_GENAI === 'new',
  };
}

function deepFreeze<T extends object>(value: T): T {
  for (const member of Object.values(value)) {
    if (typeof member === 'object' && member !== null && !Object.isFrozen(member)) deepFreeze(member);
  }
  return Object.freeze(value);
}

/**
 * Checks the environment and makes the configuration of it.
 * @throws ConfigError with one readable line per error
 */
export function loadConfig(variables: Environment, terminal = false): Config {
  const environment = trimmed(variables);
  const settings = readSettings(environment);
  const target = settings.DATABASE_URL ?? { kind: 'sqlite', file: resolve(settings.DATA_DIR, 'chat.sqlite') };
  const sqlite = target.kind === 'sqlite';
  const loopback = isLoopback(settings.HOST);
  const errors = [...crossErrors(settings, sqlite), ...proxyErrors(environment)];
  if (errors.length > 0) throw new ConfigError(errors);
  return deepFreeze({
    host: settings.HOST,
    port: settings.PORT,
    loopback,
    dataDir: resolve(settings.DATA_DIR),
    shutdownGraceMs: settings.SHUTDOWN_GRACE_MS,
    workers: settings.WEB_CONCURRENCY ?? (sqlite ? 1 : availableParallelism()),
    database: {
      target,
      poolMin: settings.DB_POOL_MIN,
      poolMax: settings.DB_POOL_MAX,
      acquireTimeoutMs: settings.DB_ACQUIRE_TIMEOUT_MS,
      queryTimeoutMs: settings.DB_QUERY_TIMEOUT_MS,
      textMaxBytes: Math.max(settings.REPLY_MAX_BYTES, 3 * settings.MESSAGE_MAX_CHARS),
      autoMigrate: settings.DB_AUTO_MIGRATE ?? sqlite,
    },
    model: modelConfig(settings, environment),
    v1: {
      store: settings.V1_STORE,
      cancelOnDisconnect: settings.V1_ON_DISCONNECT === 'cancel',
      cache: settings.V1_CACHE,
    },
    chat: chatConfig(settings, loopback),
    durability: {
      checkpointMs: settings.CHECKPOINT_MS,
      leaseMs: settings.STREAM_LEASE_MS,
      journalMaxBytes: settings.JOURNAL_MAX_BYTES,
    },
    cache: { maxBytes: settings.CACHE_MAX_BYTES, ttlMs: settings.CACHE_TTL_SECONDS * 1000 },
    purgeCron: settings.PURGE_CRON,
    exports: {
      maxJobs: settings.EXPORT_MAX_JOBS,
      keepMs: settings.EXPORT_KEEP_HOURS * 3_600_000,
      archive: settings.PURGE_ARCHIVE,
    },
    notify: {
      smtpUrl: settings.SMTP_URL,
      mailFrom: settings.MAIL_FROM,
      allowPrivate: settings.WEBHOOK_ALLOW_PRIVATE,
    },
    linkSecrets: settings.LINK_SECRET,
    auth: authConfig(settings, loopback),
    cacheByOwner: settings.CACHE_SCOPE === 'owner',
    limits: limitsConfig(settings, loopback),
    filter: {
      file: settings.CONTENT_FILTER_FILE && resolve(settings.CONTENT_FILTER_FILE),
      input: settings.CONTENT_FILTER_INPUT,
      output: settings.CONTENT_FILTER_OUTPUT,
      store: settings.CONTENT_FILTER_STORE === 'filtered',
    },
    piiMask: {
      logs: settings.PII_MASK === 'logs' || settings.PII_MASK === 'on',
      exports: settings.PII_MASK === 'exports' || settings.PII_MASK === 'on',
    },
    http: {
      bodyLimit: settings.BODY_LIMIT,
      importMaxBytes: settings.IMPORT_MAX_BYTES,
      corsOrigins: settings.CORS_ORIGINS ?? (loopback ? 'loopback' : []),
      trustProxy: settings.TRUST_PROXY,
      heartbeatMs: settings.SSE_HEARTBEAT_MS,
      openMs: settings.SSE_OPEN_MS,
    },
    metrics: metricsConfig(settings, environment),
    slow: { firstTokenMs: settings.SLOW_FIRST_TOKEN_MS, replyMs: settings.SLOW_REPLY_MS },
    log: {
      level: settings.LOG_LEVEL,
      pretty: (settings.LOG_FORMAT ?? (terminal ? 'pretty' : 'json')) === 'pretty',
      file: settings.LOG_FILE,
    },
    changed: changedSettings(environment, settings),
    warnings: warningsOf(environment, settings, loopback),
  });
}
