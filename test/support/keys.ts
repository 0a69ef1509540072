/** Servers that ask for API keys, and keys for them: good ones, bad ones, and what a request shows of them. */
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

/** Every scope but admin. */
export const USER: readonly Scope[] = ['chat', 'read', 'export', 'metrics'];

/** Without limits, which have tests of their own. */
const UNLIMITED = {
  RATE_LIMIT_REQUESTS: '0',
  RATE_LIMIT_STREAMS: '0',
  RATE_LIMIT_EXPORTS: '0',
  RATE_LIMIT_AUTH_FAILURES: '0',
};

const DAY = 86_400_000;
const ids = createIdSource();

/** What a request says to show the key. */
export const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

interface Holder {
  readonly key: string;
  /** Of the key. */
  readonly id: string;
}

/** Somebody with a key: their requests, with it. */
export interface Person extends Holder {
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
}

/** A database that several servers share, in turn or at the same time. */
export interface LockedPlace {
  readonly env: Readonly<Record<string, string>>;
  /** Made before any server was started. */
  readonly root: Holder;
  start(env?: Record<string, string>, overrides?: Overrides): Promise<LockedServer>;
  /** Removes the database and the folder; the servers must be stopped. */
  remove(): Promise<void>;
}

export interface LockedServer extends ChatServer {
  /** Whoever made the first key: admin, of the owner `root`. */
  readonly root: Person;
  /** A new key of that owner; every scope but admin unless said otherwise. */
  person(owner: string, scopes?: readonly Scope[]): Promise<Person>;
  /** The same person, at this server. */
  as(holder: Holder): Person;
  /** A key of that owner with all scopes that was good yesterday. */
  expired(owner: string): Promise<string>;
  revoked(owner: string): Promise<string>;
}

/** @param place of `databases()` */
export async function lockedPlace(place: ReturnType<typeof databases>[number]): Promise<LockedPlace> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-locked-'));
  const env = { DATA_DIR: folder, AUTH: 'required', ...UNLIMITED, ...(await place.create()) };
  const root = await firstKey(env);
  return {
    env,
    root,
    start: async (more = {}, overrides = {}) => locked(await startChat({ ...env, ...more }, overrides), root),
    async remove() {
      await place.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** A server on a place of its own. @returns also what removes both */
export async function startLocked(
  place: ReturnType<typeof databases>[number],
  env: Record<string, string> = {},
  overrides: Overrides = {},
): Promise<LockedServer> {
  const where = await lockedPlace(place);
  const server = await where.start(env, overrides);
  return {
    ...server,
    async stop() {
      await server.stop();
      await where.remove();
    },
  };
}

/** As `npm run keys` does before the first start. */
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

function locked(chat: ChatServer, root: Holder): LockedServer {
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

/** Fields that are of one request only. */
const OF_THE_REQUEST = ['x-request-id', 'date', 'content-length'];

/** What an answer says, without what tells one request from another: two that are equal give away nothing. */
export function essence({ status, headers, text }: Answer) {
  const { request_id: _id, instance: _instance, ...body } = JSON.parse(text === '' ? '{}' : text);
  const kept = Object.entries(headers).filter(([name]) => !OF_THE_REQUEST.includes(name));
  return { status, headers: Object.fromEntries(kept), body };
}

/** The body of an answer, which must have this status. */
export function bodyOf(answer: Answer, status = 200) {
  assert.equal(answer.status, status, answer.text);
  return JSON.parse(answer.text);
}
