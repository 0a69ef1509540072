/** What the commands of this folder have in common: how they ask and how they fail. */
import { createInterface } from 'node:readline/promises';
import { ConfigError } from '../src/config/environment.ts';
import { DamagedFileError } from '../src/db/backup-file.ts';
import { MigrationError } from '../src/db/core/migrations.ts';
import { PendingMigrationsError } from '../src/db/prepare-schema.ts';
import { AppError, errorCode } from '../src/domain/errors.ts';
import { explainDenied } from '../src/startup/database-error.ts';

/** Printed without a stack trace. */
export class CommandError extends Error {}

const KNOWN = [CommandError, DamagedFileError, ConfigError, MigrationError, PendingMigrationsError];

/** Runs a command. Prints errors that the user can mend in one line, others with their stack; the exit code is 1. */
export async function runCommand(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    console.error(messageOf(error) ?? error);
    process.exitCode = 1;
  }
}

/** The present time for names of files: `20260321T101500123Z`. With milliseconds, because a command may be repeated. */
export function fileStamp(): string {
  return new Date().toISOString().replace(/[-:.]/g, '');
}

/**
 * Lets a person confirm a destructive command.
 * @param refusal what is said when they do not: `Nothing was restored`
 * @throws CommandError when the answer is not yes, or nothing can be typed
 */
export async function askFirst(refusal: string): Promise<void> {
  if (!process.stdin.isTTY)
    throw new CommandError(`${refusal}: repeat the command with --yes if this is meant`);
  const lines = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await lines.question('Type yes to continue: ');
  lines.close();
  if (answer.trim().toLowerCase() !== 'yes') throw new CommandError(refusal);
}

function messageOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (KNOWN.some((kind) => error instanceof kind)) return error.message;
  const denied = explainDenied(error instanceof AppError ? error.cause : error);
  if (denied !== undefined) return denied;
  return error instanceof AppError || errorCode(error) !== undefined ? error.message : undefined;
}
