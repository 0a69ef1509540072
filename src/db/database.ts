import type { Knex } from 'knex';
import type { Logger } from 'pino';
import type { ApiKeyStore } from '../domain/access/api-keys.ts';
import type { CounterStore } from '../domain/access/limits.ts';
import type { ReplyStore, TurnWriter } from '../domain/chat/turns.ts';
import type { ConversationRepository } from '../domain/conversations/conversation.ts';
import type { ForkStore } from '../domain/conversations/forks.ts';
import type { ImportStore } from '../domain/conversations/imports.ts';
import type { PurgeStore } from '../domain/conversations/purge.ts';
import type { ExportSource } from '../domain/exports/exports.ts';
import type { ExportJobStore } from '../domain/exports/jobs.ts';
import { KnexApiKeys } from './access/api-keys.ts';
import { KnexCounters } from './access/counters.ts';
import { Secrets } from './access/secrets.ts';
import { createKnex, type DatabaseOptions, describeTarget } from './core/client.ts';
import { ConnectionGeneration } from './core/connection/connection-generation.ts';
import { dialectOf } from './core/dialect.ts';
import { migrateLatest, pendingMigrations } from './core/migrations.ts';
import { KnexExportJobs } from './exports/jobs.ts';
import { KnexExportSource } from './exports/reader.ts';
import { KnexImports } from './imports/imports.ts';
import { KnexConversations } from './repositories/conversations.ts';
import { KnexForks } from './repositories/forks.ts';
import { KnexPurgeStore } from './repositories/purge.ts';
import { KnexReplies } from './repositories/replies.ts';
import { GroupCommitWriter, WRITER_CONNECTIONS, type WriterMetrics } from './turns/turn-writer.ts';

export interface ConnectionCounts {
  readonly used: number;
  readonly free: number;
  readonly waiting: number;
}

export interface Database {
  /** The pool of all but the writer. */
  readonly knex: Knex;
  readonly conversations: ConversationRepository;
  readonly forks: ForkStore;
  readonly imports: ImportStore;
  readonly writer: TurnWriter;
  /** The writer's connections. */
  readonly writerKnex: Knex;
  /** The longest text that the server can store, in bytes of UTF-8; infinite as long as it is unknown. */
  textMaxBytes(): number;
  readonly replies: ReplyStore;
  readonly purge: PurgeStore;
  readonly exports: ExportSource;
  readonly exportJobs: ExportJobStore;
  readonly apiKeys: ApiKeyStore;
  readonly counters: CounterStore;
  readonly secrets: Secrets;
  /** `SQLite data/chat.sqlite` or `MySQL host:3306/database`: for logs and health, without user and password. */
  describe(): string;
  /** How many connections are in use and free, and how many requests wait for one. */
  connections(): ConnectionCounts;
  /** The names of the migrations that are not applied yet. Rejects with the driver's error. */
  pendingMigrations(): Promise<string[]>;
  /** Changes nothing. Rejects with the driver's error when rights are missing or the server accepts no writes. */
  checkWritable(): Promise<void>;
  /** Applies them without a time limit and resolves to their names. Rejects with the driver's error. */
  migrate(): Promise<string[]>;
  /** Waits for pending writes, then closes every connection. */
  close(): Promise<void>;
}

/**
 * Does not connect: the server can start while the database is down.
 * @throws Error with one readable line when the URL is not one
 */
export function openDatabase(given: DatabaseOptions, logger: Logger, metrics?: WriterMetrics): Database {
  const options = { ...given, generation: new ConnectionGeneration() };
  const knex = createKnex(options, logger);
  // The writer has connections of its own, so that busy readers cannot delay it.
  const ownPool = dialectOf(knex).pooled;
  let textMaxBytes = Number.POSITIVE_INFINITY;
  const onPacketLimit = (bytes: number) => {
    if (bytes !== textMaxBytes) warnIfSmall(bytes, options.textMaxBytes ?? 0, logger);
    textMaxBytes = bytes;
  };
  const writerKnex = ownPool
    ? createKnex(
        { ...options, poolMin: 0, poolMax: WRITER_CONNECTIONS, batches: true, onPacketLimit },
        logger,
      )
    : knex;
  const writer = new GroupCommitWriter(writerKnex, logger, metrics);
  return {
    knex,
    conversations: new KnexConversations(knex),
    forks: new KnexForks(knex),
    imports: new KnexImports(knex, writerKnex),
    writer,
    writerKnex,
    textMaxBytes: () => textMaxBytes,
    replies: new KnexReplies(knex),
    purge: new KnexPurgeStore(knex),
    exports: new KnexExportSource(knex),
    exportJobs: new KnexExportJobs(knex),
    apiKeys: new KnexApiKeys(knex),
    counters: new KnexCounters(knex),
    secrets: new Secrets(knex),
    describe: () => describeTarget(options),
    connections: () => countConnections(ownPool ? [knex, writerKnex] : [knex]),
    pendingMigrations: () => pendingMigrations(knex),
    checkWritable: () => checkWritable(knex),
    migrate: () => migrate(options, logger),
    async close() {
      await writer.close();
      await Promise.all([knex.destroy(), ownPool ? writerKnex.destroy() : undefined]);
    },
  };
}

function countConnections(pools: readonly Knex[]): ConnectionCounts {
  const counts = { used: 0, free: 0, waiting: 0 };
  for (const { client } of pools) {
    // A destroyed client has no pool any more.
    counts.used += client.pool?.numUsed() ?? 0;
    counts.free += client.pool?.numFree() ?? 0;
    counts.waiting += client.pool?.numPendingAcquires() ?? 0;
  }
  return counts;
}

function warnIfSmall(maxAllowedPacket: number, needed: number, logger: Logger): void {
  if (maxAllowedPacket >= needed) return;
  const fields = { max_allowed_packet: maxAllowedPacket, needed_bytes: needed };
  logger.warn(fields, 'max_allowed_packet is too small for REPLY_MAX_BYTES or MESSAGE_MAX_CHARS');
}

async function checkWritable(knex: Knex): Promise<void> {
  for (const [table, column] of [
    ['conversations', 'owner'],
    ['messages', 'content'],
  ] as const) {
    await knex.raw('INSERT INTO ?? SELECT * FROM ?? WHERE 1 = 0', [table, table]);
    await knex.raw('UPDATE ?? SET ?? = ?? WHERE 1 = 0', [table, column, column]);
    await knex.raw('DELETE FROM ?? WHERE 1 = 0', [table]);
  }
}

async function migrate(options: DatabaseOptions, logger: Logger): Promise<string[]> {
  const migrationKnex = createKnex({ ...options, queryTimeoutMs: 0 }, logger);
  try {
    return await migrateLatest(migrationKnex);
  } finally {
    await migrationKnex.destroy();
  }
}
