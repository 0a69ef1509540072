/** Helpers of the commands in this folder: error output, confirmation, time stamps. */
import { createInterface } from 'node:readline/promises';
import { ConfigError } from '../src/config/environment.ts';
import { DamagedFileError } from '../src/db/backup-file.ts';
import { MigrationError } from '../src/db/core/migrations.ts';
import { PendingMigrationsError } from '../src/db/prepare-schema.ts';
import { AppError, errorCode } from '../src/domain/errors.ts';
import { explainDenied } from '../src/startup/database-error.ts';

/** An error that is printed without a stack trace. */
export class CommandError extends Error {}

const KNOWN = [CommandError, DamagedFileError, ConfigError, MigrationError, PendingMigrationsError];

/**
 * Runs a command. After an error the exit code is 1. An error that the user can fix is printed in one line, others with
 * their stack.
 */
export async function runCommand(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    console.error(messageOf(error) ?? error);
    process.exitCode = 1;
  }
}

/** The current time for file names: `20260321T101500123Z`. Milliseconds keep names of repeated commands apart. */
export function fileStamp(): string {
  return new Date().toISOString().replace(/[-:.]/g, '');
}

/**
 * Asks the user to confirm a destructive command.
 * @param refusal the message after any answer but yes: `Nothing was restored`
 * @throws CommandError when the answer is not yes, or standard input is no terminal
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
