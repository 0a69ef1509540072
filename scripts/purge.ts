/** One purge now: `npm run purge`, or `npm run purge -- --dry-run` to count only. */
import { parseArgs } from 'node:util';
import { purgeArchiver } from '../src/compose/exports.ts';
import { ConfigError, loadConfig, loadEnvironment } from '../src/config/config.ts';
import { openDatabase } from '../src/db/database.ts';
import { errorCode } from '../src/domain/errors.ts';
import { Retention } from '../src/domain/retention.ts';
import { createLogger } from '../src/logger.ts';
import { PurgeService } from '../src/services/conversations/purge.ts';

async function main(dryRun: boolean): Promise<void> {
  const config = loadConfig(loadEnvironment(), process.stdout.isTTY);
  const log = createLogger({ ...config.log, level: 'silent' }, () => ({}));
  const database = openDatabase(config.database, log);
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  try {
    await database.conversations.check();
    const clock = { now: () => Date.now() };
    const archiver = purgeArchiver(config, database, clock, log);
    const purge = new PurgeService(database.purge, clock, new Retention(config.chat.ttlMs), log, archiver);
    console.log(
      dryRun ? sentence(await purge.preview(), 'would be removed') : report(await purge.run(stop.signal)),
    );
  } finally {
    await database.close();
  }
}

function sentence(count: { conversations: number; messages: number }, what: string): string {
  return `${count.conversations} conversations with ${count.messages} messages ${what}.`;
}

function report(result: Awaited<ReturnType<PurgeService['run']>>): string {
  switch (result.outcome) {
    case 'off':
      return 'Nothing to do: CONVERSATION_TTL_HOURS is 0, conversations are kept for ever.';
    case 'busy':
      return 'Another process is purging this database right now.';
    case 'stopped':
      return sentence(result, 'removed, then stopped; run it again for the rest');
    case 'done':
      return sentence(result, 'removed');
  }
}

try {
  const { values } = parseArgs({ options: { 'dry-run': { type: 'boolean', default: false } } });
  await main(values['dry-run']);
} catch (error) {
  const known = error instanceof ConfigError || errorCode(error) !== undefined;
  console.error(known && error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
