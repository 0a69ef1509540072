/** API keys: `npm run keys -- create --owner NAME --scopes chat,read`, `list`, `revoke ID`, `rotate ID`. */
import { loadConfig } from '../src/config/config.ts';
import { loadEnvironment } from '../src/config/environment.ts';
import { toAppError } from '../src/db/core/errors.ts';
import { type Database, openDatabase } from '../src/db/database.ts';
import { prepareSchema } from '../src/db/prepare-schema.ts';
import { type ApiKey, isUsable, SCOPES } from '../src/domain/access/api-keys.ts';
import { AppError } from '../src/domain/errors.ts';
import { createIdSource } from '../src/ids.ts';
import { createLogger, type Logger } from '../src/logger.ts';
import { ApiKeyService, type CreatedKey } from '../src/services/access/api-keys.ts';
import { explainDenied } from '../src/startup/database-error.ts';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { CommandError, runCommand } from './command.ts';

const USAGE = `usage: npm run keys -- COMMAND
  create --owner NAME --scopes LIST [--expires TIME] [--requests N] [--streams N]
             creates a key and shows it once; LIST is a list of ${SCOPES.join(',')};
             TIME is like 2027-01-01T00:00:00Z; without it the key never expires;
             N replaces RATE_LIMIT_REQUESTS or RATE_LIMIT_STREAMS for this key, 0: no limit
  list       lists all keys, without their secrets
  revoke ID  revokes a key; running servers reject it within a second
  rotate ID  revokes a key and creates one with the same owner, scopes, limits and expiry`;

type Command = (keys: ApiKeyService) => Promise<string[]>;

const TEXT = { type: 'string' } as const;
const CONFIG = {
  allowPositionals: true,
  options: { owner: TEXT, scopes: TEXT, expires: TEXT, requests: TEXT, streams: TEXT },
} as const;

/** @throws CommandError */
function parseCommand(): Command {
  const { values, positionals } = readArguments(USAGE, CONFIG);
  const [name, id, ...rest] = positionals;
  if (name === 'create' && id === undefined) return createWith(values);
  if (Object.keys(values).length === 0 && rest.length === 0) {
    if (name === 'list' && id === undefined) return list;
    if (name === 'revoke' && id !== undefined) return (keys) => revoke(keys, id);
    if (name === 'rotate' && id !== undefined) return (keys) => rotate(keys, id);
  }
  return failUsage('A command with its own arguments is needed', USAGE);
}

function createWith(values: { [Name in keyof typeof CONFIG.options]?: string }): Command {
  const { owner, scopes, expires, requests, streams } = values;
  if (owner === undefined || scopes === undefined)
    return failUsage('create needs --owner and --scopes', USAGE);
  const limits = { requestsPerMinute: readLimit(requests), openStreams: readLimit(streams) };
  const request = { owner, scopes: readScopes(scopes), expiresAt: readTime(expires), limits };
  return async (keys) => describeKey(await keys.create(request));
}

function readScopes(text: string) {
  const names = text.split(',').map((name) => name.trim());
  const unknown = names.filter((name) => !SCOPES.some((scope) => scope === name));
  if (unknown.length > 0) {
    const list = unknown.map((name) => JSON.stringify(name)).join(', ');
    throw new CommandError(`--scopes: unknown ${list}; known scopes are ${SCOPES.join(', ')}`);
  }
  return SCOPES.filter((scope) => names.includes(scope));
}

/** NaN for text that is no number; the check of the range rejects it. */
function readLimit(text: string | undefined): number | null {
  if (text === undefined) return null;
  return /^\d+$/.test(text) ? Number(text) : Number.NaN;
}

const TIME = /^(\d{4}-\d\d-\d\d)T\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:\d\d)$/;

function readTime(text: string | undefined): number | null {
  if (text === undefined) return null;
  const day = TIME.exec(text)?.[1];
  const instant = day === undefined || !isDay(day) ? Number.NaN : Date.parse(text);
  if (!Number.isNaN(instant)) return instant;
  throw new CommandError(
    `--expires must be a time with a zone, such as 2027-01-01T00:00:00Z, not ${JSON.stringify(text)}`,
  );
}

/** Whether the text is a valid day. `Date.parse` alone accepts February 30 as a day in March. */
function isDay(text: string): boolean {
  const instant = Date.parse(text);
  return !Number.isNaN(instant) && new Date(instant).toISOString().startsWith(text);
}

function describeKey({ key, apiKey }: CreatedKey): string[] {
  return [
    `key      ${key}`,
    `id       ${apiKey.id}`,
    `owner    ${apiKey.owner}`,
    `scopes   ${apiKey.scopes.join(', ')}`,
    `requests ${limitText(apiKey.limits.requestsPerMinute)}`,
    `streams  ${limitText(apiKey.limits.openStreams)}`,
    `expires  ${timeOr(apiKey.expiresAt, 'never')}`,
    'Store the key like a password: it is not shown again.',
  ];
}

const timeOr = (instant: number | null, otherwise: string) =>
  instant === null ? otherwise : new Date(instant).toISOString();

function limitText(limit: number | null): string {
  return limit === null ? 'default' : limit === 0 ? 'unlimited' : String(limit);
}

async function list(keys: ApiKeyService): Promise<string[]> {
  const all = await keys.list();
  if (all.length === 0) return ['There are no keys.'];
  const head = [
    'id',
    'prefix',
    'owner',
    'scopes',
    'requests',
    'streams',
    'created',
    'expires',
    'last used',
    'state',
  ];
  const rows = [head, ...all.map(columns)];
  const widths = head.map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

function columns(key: ApiKey): string[] {
  const state = key.revokedAt !== null ? 'revoked' : isUsable(key, Date.now()) ? 'active' : 'expired';
  return [
    key.id,
    key.prefix,
    key.owner,
    key.scopes.join(),
    limitText(key.limits.requestsPerMinute),
    limitText(key.limits.openStreams),
    timeOr(key.createdAt, ''),
    timeOr(key.expiresAt, 'never'),
    timeOr(key.lastUsedAt, 'never'),
    state,
  ];
}

async function revoke(keys: ApiKeyService, id: string): Promise<string[]> {
  const revoked = await keys.revoke(id.toLowerCase());
  if (!revoked)
    throw new CommandError(
      `no key has the id ${JSON.stringify(id)}; list the keys with: npm run keys -- list`,
    );
  return [`revoked  ${revoked.prefix}… of ${revoked.owner}, at ${timeOr(revoked.revokedAt, '')}`];
}

async function rotate(keys: ApiKeyService, id: string): Promise<string[]> {
  const made = await keys.rotate(id.toLowerCase());
  if (made) return describeKey(made);
  throw new CommandError(
    `no active key has the id ${JSON.stringify(id)}; list the keys with: npm run keys -- list`,
  );
}

/** Like a server's start, but fails when the database is unavailable. */
async function prepare(database: Database, autoMigrate: boolean, log: Logger): Promise<void> {
  const abort = new AbortController();
  const { done } = await prepareSchema(database, { autoMigrate, signal: abort.signal }, log);
  abort.abort();
  await done;
}

async function main(): Promise<void> {
  const command = parseCommand();
  const config = loadConfig(loadEnvironment());
  const log = createLogger({ ...config.log, level: 'silent' }, () => ({}));
  const database = openDatabase(config.database, log);
  const clock = { now: () => Date.now() };
  const keys = new ApiKeyService({ store: database.apiKeys, clock, ids: createIdSource(), log });
  try {
    await prepare(database, config.database.autoMigrate, log);
    for (const line of await command(keys)) console.log(line);
  } catch (error) {
    throw toCommandError(error, database);
  } finally {
    await database.close();
  }
}

/** Errors that the user can fix become a `CommandError`; others stay unchanged. */
function toCommandError(error: unknown, database: Database): unknown {
  const denied = explainDenied(error);
  if (denied !== undefined) return new CommandError(`${database.describe()}: ${denied}`);
  const known = toAppError(error);
  if (!(known instanceof AppError)) return error;
  const problems = known.errors?.map(({ path, message }) => `--${path.replace('_at', '')} ${message}`);
  return new CommandError(problems?.join('\n') ?? `${database.describe()}: ${known.message}`);
}

await runCommand(main);
