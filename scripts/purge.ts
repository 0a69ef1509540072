/** Deletes expired conversations: `npm run purge`, or `npm run purge -- --dry-run` to count only. */
import { parseArgs } from 'node:util';
import { composePurge } from '../src/compose/purge.ts';
import { loadConfig } from '../src/config/config.ts';
import { ConfigError, loadEnvironment } from '../src/config/environment.ts';
import { openDatabase } from '../src/db/database.ts';
import type { PurgeCount } from '../src/domain/conversations/purge.ts';
import { errorCode } from '../src/domain/errors.ts';
import { createLogger } from '../src/logger.ts';
import type { PurgeReport } from '../src/services/conversations/purge.ts';

const PROGRESS_MS = 1000;

async function main(dryRun: boolean): Promise<void> {
  const config = loadConfig(loadEnvironment(), process.stdout.isTTY);
  const log = createLogger({ ...config.log, level: 'silent' }, () => ({}));
  const database = openDatabase(config.database, log);
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  try {
    await database.conversations.check();
    const purge = composePurge(config, database, { now: () => Date.now() }, log);
    console.log(
      dryRun
        ? sentence(await purge.preview(), 'would be removed')
        : report(await purge.run(stop.signal, progressPrinter())),
    );
  } finally {
    await database.close();
  }
}

/** Prints a line about once a second. */
function progressPrinter(): (total: PurgeCount) => void {
  let printedAt = performance.now();
  let before = 0;
  return ({ conversations, messages }) => {
    const now = performance.now();
    if (now - printedAt < PROGRESS_MS) return;
    const rate = Math.round(((messages - before) * 1000) / (now - printedAt));
    console.log(`${conversations} conversations, ${messages} messages removed, ${rate} messages/s`);
    printedAt = now;
    before = messages;
  };
}

function sentence(count: PurgeCount, what: string): string {
  return `${count.conversations} conversations with ${count.messages} messages ${what}.`;
}

function report(result: PurgeReport): string {
  switch (result.outcome) {
    case 'off':
      return 'Nothing to do: CONVERSATION_TTL_HOURS is 0, so conversations never expire.';
    case 'busy':
      return 'Another process is purging this database.';
    case 'stopped':
      return `${sentence(result, 'removed before the interruption')} ${result.left} conversations are left; run it again.`;
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
