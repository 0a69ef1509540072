/** Imports conversations into the database, without the server: `npm run import -- FILE`. */
import { loadConfig } from '../src/config/config.ts';
import { loadEnvironment } from '../src/config/environment.ts';
import { openDatabase } from '../src/db/database.ts';
import { Retention } from '../src/domain/conversations/retention.ts';
import { createLogger } from '../src/logger.ts';
import { ownerProblem } from '../src/services/access/api-keys.ts';
import { ImportService } from '../src/services/imports/imports.ts';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { runCommand } from './command.ts';
import { fileEntries } from './import-lib/formats.ts';
import { createImportProgress } from './import-lib/progress.ts';
import { openSource } from './import-lib/source.ts';

const USAGE = `usage: npm run import -- FILE [options]
  FILE           an NDJSON or JSON export, ChatGPT's conversations.json, or the export of chats of Open WebUI;
                 plain, gzip or zstd; - is standard input
  --owner NAME   owner of the conversations; default: none, which only keys with the scope admin can read
  --pin          pins them, so that they do not expire
  --replace      replaces conversations that exist; they are skipped otherwise
Prints the counts as JSON. The exit code is 1 when a line could not be imported. Errors name the line of an
NDJSON file, or the number of the conversation in another file. Repeating an import is safe.`;

const OPTIONS = {
  owner: { type: 'string' },
  pin: { type: 'boolean' },
  replace: { type: 'boolean' },
} as const;

/** Conversations that are written at the same time. */
const PARALLEL = 4;

const { values, positionals } = readArguments(USAGE, { options: OPTIONS, allowPositionals: true });
const [file, ...more] = positionals;

async function main(path: string): Promise<void> {
  const { owner, pin = false, replace = false } = values;
  const config = loadConfig(loadEnvironment(), process.stdout.isTTY);
  const log = createLogger({ ...config.log, level: 'silent' }, () => ({}));
  const progress = createImportProgress(process.stderr);
  const { blocks, size } = await openSource(path, progress.read);
  const database = openDatabase(config.database, log);
  try {
    await database.conversations.check();
    const retention = new Retention(config.chat.ttlMs);
    const imports = new ImportService(database.imports, { now: () => Date.now() }, retention, PARALLEL);
    const request = { owner: owner ?? null, pin, replace, replacesOwner: owner !== undefined };
    progress.begin(size);
    const counts = await imports.run(fileEntries(blocks), request, progress.update);
    progress.end();
    console.log(JSON.stringify(counts, null, 2));
    if (counts.failed > 0) process.exitCode = 1;
  } finally {
    progress.end();
    await database.close();
  }
}

const problem = values.owner === undefined ? undefined : ownerProblem(values.owner);
if (file === undefined || more.length > 0) failUsage('One file is needed', USAGE);
else if (problem !== undefined) failUsage(`--owner ${problem}`, USAGE);
else await runCommand(() => main(file));
