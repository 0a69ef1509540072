/** What the commands of this folder have in common: how they fail. */
import { ConfigError } from '../src/config/environment.ts';
import { MigrationError } from '../src/db/core/migrations.ts';
import { PendingMigrationsError } from '../src/db/prepare-schema.ts';
import { AppError, errorCode } from '../src/domain/errors.ts';
import { explainDenied } from '../src/startup/database-error.ts';

/** Printed without a stack trace. */
export class CommandError extends Error {}

const KNOWN = [CommandError, ConfigError, MigrationError, PendingMigrationsError];

/** Runs a command. Prints errors that the user can mend in one line, others with their stack; the exit code is 1. */
export async function runCommand(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    console.error(messageOf(error) ?? error);
    process.exitCode = 1;
  }
}

function messageOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (KNOWN.some((kind) => error instanceof kind)) return error.message;
  const denied = explainDenied(error instanceof AppError ? error.cause : error);
  if (denied !== undefined) return denied;
  return error instanceof AppError || errorCode(error) !== undefined ? error.message : undefined;
}
