import { join } from 'node:path';
import type { Config } from '../config/config.ts';
import type { Database } from '../db/database.ts';
import { Retention } from '../domain/conversations/retention.ts';
import type { Clock } from '../domain/runtime.ts';
import { createPurgeArchive } from '../files/purge-archive.ts';
import type { Logger } from '../logger.ts';
import { PurgeService } from '../services/conversations/purge.ts';
import { PurgeArchiver } from '../services/exports/purge-archiver.ts';

/** Apart from the other exports, because `npm run purge` needs nothing else of them. */
export function composePurge(
  config: Config,
  database: Pick<Database, 'exports' | 'purge'>,
  clock: Clock,
  log: Logger,
): PurgeService {
  const retention = new Retention(config.chat.ttlMs);
  const archive = createPurgeArchive(join(config.dataDir, 'archive'), log);
  const archiver = new PurgeArchiver(database.exports, archive, clock, retention);
  return new PurgeService(database.purge, clock, retention, log, config.exports.archive ? archiver : null);
}
