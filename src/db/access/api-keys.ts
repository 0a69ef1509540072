import type { Knex } from 'knex';
import {
  type ApiKey,
  type ApiKeyStore,
  isUsable,
  SCOPES,
  type StoredApiKey,
} from '../../domain/access/api-keys.ts';
import type { Instant } from '../../domain/conversations/conversation.ts';
import { fromTime, toTime } from '../core/codec.ts';
import { asAppErrors, transaction, withReconnect } from '../core/errors.ts';
import type { ApiKeyRow } from '../core/tables.ts';

export class KnexApiKeys implements ApiKeyStore {
  readonly #knex: Knex;

  constructor(knex: Knex) {
    this.#knex = knex;
  }

  async add(key: StoredApiKey): Promise<void> {
    await withReconnect(() => this.#knex('api_keys').insert(toRow(key)).onConflict('id').ignore());
  }

  async findByHash(hash: string): Promise<StoredApiKey | null> {
    const row = await withReconnect(() => this.#knex('api_keys').where({ hash }).first());
    return row ? { ...toApiKey(row), hash: row.hash } : null;
  }

  async list(): Promise<ApiKey[]> {
    const order = ['created_at', 'id'].map((column) => ({ column, order: 'desc' }));
    const rows = await withReconnect(() => this.#knex('api_keys').orderBy(order));
    return rows.map(toApiKey);
  }

  revoke(id: string, at: Instant): Promise<ApiKey | null> {
    return withReconnect(async () => {
      await this.#knex('api_keys')
        .where({ id })
        .whereNull('revoked_at')
        .update({ revoked_at: toTime(at) });
      const row = await this.#knex('api_keys').where({ id }).first();
      return row ? toApiKey(row) : null;
    });
  }

  replace(
    id: string,
    successor: Pick<StoredApiKey, 'id' | 'prefix' | 'hash'>,
    at: Instant,
  ): Promise<ApiKey | null> {
    return asAppErrors(() =>
      transaction(this.#knex, async (trx) => {
        const row = await trx('api_keys').where({ id }).forUpdate().first();
        const old = row && toApiKey(row);
        if (!old || !isUsable(old, at)) return null;
        await trx('api_keys')
          .where({ id })
          .update({ revoked_at: toTime(at) });
        const { hash, ...key } = { ...old, ...successor, createdAt: at, lastUsedAt: null };
        await trx('api_keys').insert(toRow({ ...key, hash }));
        return key;
      }),
    );
  }

  async touch(id: string, at: Instant): Promise<void> {
    const last_used_at = toTime(at);
    await withReconnect(() =>
      this.#knex('api_keys')
        .where({ id })
        .where((where) => where.whereNull('last_used_at').orWhere('last_used_at', '<', last_used_at))
        .update({ last_used_at }),
    );
  }

  async anyUsable(now: Instant): Promise<boolean> {
    const row = await withReconnect(() =>
      this.#knex('api_keys')
        .whereNull('revoked_at')
        .where((where) => where.whereNull('expires_at').orWhere('expires_at', '>', toTime(now)))
        .first('id'),
    );
    return row !== undefined;
  }
}

const timeOrNull = (instant: Instant | null) => (instant === null ? null : toTime(instant));
const instantOrNull = (time: string | null) => (time === null ? null : fromTime(time));

function toRow(key: StoredApiKey): ApiKeyRow {
  return {
    id: key.id,
    prefix: key.prefix,
    hash: key.hash,
    owner: key.owner,
    scopes: key.scopes.join(),
    request_limit: key.limits.requestsPerMinute,
    stream_limit: key.limits.openStreams,
    created_at: toTime(key.createdAt),
    expires_at: timeOrNull(key.expiresAt),
    last_used_at: timeOrNull(key.lastUsedAt),
    revoked_at: timeOrNull(key.revokedAt),
  };
}

/** Ignores scopes that only a newer version knows. */
function toApiKey(row: ApiKeyRow): ApiKey {
  const scopes = row.scopes.split(',');
  return {
    id: row.id,
    prefix: row.prefix,
    owner: row.owner,
    scopes: SCOPES.filter((scope) => scopes.includes(scope)),
    limits: { requestsPerMinute: row.request_limit, openStreams: row.stream_limit },
    createdAt: fromTime(row.created_at),
    expiresAt: instantOrNull(row.expires_at),
    lastUsedAt: instantOrNull(row.last_used_at),
    revokedAt: instantOrNull(row.revoked_at),
  };
}
