/** Servers that require API keys, and keys for them: valid, expired and revoked ones. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Overrides } from '../../src/compose/index.ts';
import { loadConfig } from '../../src/config/config.ts';
import { openDatabase } from '../../src/db/database.ts';
import type { ApiKeyStore, Scope } from '../../src/domain/access/api-keys.ts';
import { createIdSource } from '../../src/ids.ts';
import { ApiKeyService, type CreatedKey } from '../../src/services/access/api-keys.ts';
import { type Answer, type ChatServer, type databases, startChat } from './chat-server.ts';
import { silent } from './databases.ts';
import { silentLog } from './fakes.ts';
import { createSqlite } from './migrated.ts';

/** All scopes except admin. */
export const USER: readonly Scope[] = ['chat', 'read', 'export', 'metrics'];

/** Turns rate limits off; they have their own tests. */
const UNLIMITED = {
  RATE_LIMIT_REQUESTS: '0',
  RATE_LIMIT_STREAMS: '0',
  RATE_LIMIT_EXPORTS: '0',
  RATE_LIMIT_AUTH_FAILURES: '0',
};

const DAY = 86_400_000;
const ids = createIdSource();

/** The header with the key. */
export const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

interface Holder {
  readonly key: string;
  /** The id of the key. */
  readonly id: string;
}

/** A caller with a key, which `call` sends along. */
export interface Person extends Holder {
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
}

/** A database of servers that require API keys; several can share it, in turn or at the same time. */
export interface ProtectedDatabase {
  readonly env: Readonly<Record<string, string>>;
  /** The first key, created before any server was started. */
  readonly root: Holder;
  start(env?: Record<string, string>, overrides?: Overrides): Promise<ProtectedServer>;
  /** Removes the database and the folder; the servers must be stopped. */
  remove(): Promise<void>;
}

export interface ProtectedServer extends ChatServer {
  /** The caller with the first key: scope admin, owner `root`. */
  readonly root: Person;
  /** Creates a key of that owner. Default: all scopes except admin. */
  person(owner: string, scopes?: readonly Scope[]): Promise<Person>;
  /** The same caller, at this server. */
  as(holder: Holder): Person;
  /** Creates a key of that owner with all scopes, which has expired. */
  expired(owner: string): Promise<string>;
  revoked(owner: string): Promise<string>;
}

/** @param place of `databases()` */
export async function protectedDatabase(
  place: ReturnType<typeof databases>[number],
): Promise<ProtectedDatabase> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-protected-'));
  const env = { DATA_DIR: folder, AUTH: 'required', ...UNLIMITED, ...(await place.create()) };
  const root = await firstKey(env);
  return {
    env,
    root,
    start: async (more = {}, overrides = {}) =>
      protectedServer(await startChat({ ...env, ...more }, overrides), root),
    async remove() {
      await place.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Starts a server that requires API keys, on its own database. Its `stop()` removes the database too. */
export async function startProtected(
  place: ReturnType<typeof databases>[number],
  env: Record<string, string> = {},
  overrides: Overrides = {},
): Promise<ProtectedServer> {
  const where = await protectedDatabase(place);
  const server = await where.start(env, overrides);
  return {
    ...server,
    async stop() {
      await server.stop();
      await where.remove();
    },
  };
}

/** Creates the first key as `npm run keys` does before the first start. */
async function firstKey(env: Record<string, string>): Promise<Holder> {
  const { database: options } = loadConfig(env);
  const { target } = options;
  if (target.kind === 'sqlite') await createSqlite(target.file);
  const database = openDatabase(options, silent);
  try {
    return holderOf(
      await keysOf(database.apiKeys).create({ owner: 'root', scopes: ['admin'], expiresAt: null }),
    );
  } finally {
    await database.close();
  }
}

const holderOf = ({ key, apiKey }: CreatedKey): Holder => ({ key, id: apiKey.id });

function keysOf(store: ApiKeyStore, shift = 0): ApiKeyService {
  return new ApiKeyService({ store, clock: { now: () => Date.now() + shift }, ids, log: silentLog });
}

function protectedServer(chat: ChatServer, root: Holder): ProtectedServer {
  const { apiKeys } = chat.server.database;
  const keys = keysOf(apiKeys);
  const all: readonly Scope[] = ['chat', 'read', 'export', 'metrics', 'admin'];
  const as = ({ key, id }: Holder): Person => ({
    key,
    id,
    call: (method, path, body, headers) => chat.call(method, path, body, { ...bearer(key), ...headers }),
  });
  return {
    ...chat,
    root: as(root),
    as,
    person: async (owner, scopes = USER) =>
      as(holderOf(await keys.create({ owner, scopes, expiresAt: null }))),
    async expired(owner) {
      const yesterday = keysOf(apiKeys, -DAY);
      return (await yesterday.create({ owner, scopes: all, expiresAt: Date.now() - DAY / 2 })).key;
    },
    async revoked(owner) {
      const { key, apiKey } = await keys.create({ owner, scopes: all, expiresAt: null });
      await keys.revoke(apiKey.id);
      return key;
    },
  };
}

/** Headers that differ for each request. */
const OF_THE_REQUEST = ['x-request-id', 'date', 'content-length'];

/**
 * A response without the parts that differ for each request, to prove that two responses do not reveal a difference.
 */
export function essence({ status, headers, text }: Answer) {
  const { request_id: _id, instance: _instance, ...body } = JSON.parse(text === '' ? '{}' : text);
  const kept = Object.entries(headers).filter(([name]) => !OF_THE_REQUEST.includes(name));
  return { status, headers: Object.fromEntries(kept), body };
}

/** The body of a response, which must have this status. */
export function bodyOf(answer: Answer, status = 200) {
  assert.equal(answer.status, status, answer.text);
  return JSON.parse(answer.text);
}
