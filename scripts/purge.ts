/** Deletes expired conversations: `npm run purge`, or `npm run purge -- --dry-run` to count only. */
import { composePurge } from '../src/compose/purge.ts';
import { loadConfig } from '../src/config/config.ts';
import { loadEnvironment } from '../src/config/environment.ts';
import { openDatabase } from '../src/db/database.ts';
import type { Counts } from '../src/domain/conversations/conversation.ts';
import { createLogger } from '../src/logger.ts';
import type { PurgeReport } from '../src/services/conversations/purge.ts';
import { readArguments } from '../src/util/command-line.ts';
import { CommandError, runCommand } from './command.ts';

const USAGE = `usage: npm run purge -- [options]
Deletes the conversations that are idle for longer than CONVERSATION_TTL_HOURS, also while the server runs.
  --dry-run  counts them only
  --yes      also with a CONVERSATION_TTL_HOURS below 1`;

const PROGRESS_MS = 1000;
const HOUR_MS = 3_600_000;

async function main(): Promise<void> {
  const flag = { type: 'boolean', default: false } as const;
  const { values } = readArguments(USAGE, { options: { 'dry-run': flag, yes: flag } });
  const dryRun = values['dry-run'];
  const config = loadConfig(loadEnvironment(), process.stdout.isTTY);
  const { ttlMs } = config.chat;
  if (ttlMs > 0 && ttlMs < HOUR_MS && !dryRun && !values.yes) {
    throw new CommandError(
      `Nothing was removed: CONVERSATION_TTL_HOURS removes what is idle for ${ttlMs / 1000} s; repeat the command with --yes if this is meant`,
    );
  }
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
function progressPrinter(): (total: Counts) => void {
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

function sentence(count: Counts, what: string): string {
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

await runCommand(main);
