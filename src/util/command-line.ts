/** The command lines of this project: `--help`, wrong arguments. */
import { type ParseArgsConfig, parseArgs } from 'node:util';

const WRONG_USAGE = 2;

/**
 * The arguments of this process. Ends it with the usage for `--help` (exit code 0) and for arguments that are not in
 * `config` (exit code 2).
 */
export function readArguments<const T extends ParseArgsConfig>(
  usage: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  const end = process.argv.indexOf('--', 2);
  const options = end < 0 ? process.argv.slice(2) : process.argv.slice(2, end);
  if (options.includes('--help') || options.includes('-h')) {
    process.stdout.write(`${usage}\n`);
    process.exit(0);
  }
  try {
    return parseArgs(config);
  } catch (error) {
    // The rest of a message of parseArgs is about its own syntax.
    const [reason = ''] = (error instanceof Error ? error.message : String(error)).split(/\. |\n/);
    return failUsage(reason, usage);
  }
}

/** Ends the process for arguments that cannot be meant. */
export function failUsage(reason: string, usage: string): never {
  process.stderr.write(`${reason}\n${usage}\n`);
  process.exit(WRONG_USAGE);
}
