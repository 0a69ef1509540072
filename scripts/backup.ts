/** `npm run backup -- DIR`: copies the SQLite database and the journal, also while the server runs. */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { isAbsolute, join, relative, resolve } from 'node:path';
import packageJson from '../package.json' with { type: 'json' };
import { type Config, loadConfig } from '../src/config/config.ts';
import { loadEnvironment } from '../src/config/environment.ts';
import {
  type BackupName,
  type CopiedFile,
  copyDatabase,
  describeFile,
  sentence,
} from '../src/db/backup-file.ts';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { syncToDisk } from '../src/util/sync-to-disk.ts';
import { MANIFEST, type Manifest } from './backup-manifest.ts';
import { CommandError, runCommand } from './command.ts';

const USAGE = `usage: npm run backup -- DIR
Copies the SQLite database and the journal into DIR, which must be new or empty, also while the server runs.
With MySQL it copies the journal only: back up the database with mysqldump --single-transaction.`;

interface Source {
  readonly name: BackupName;
  readonly path: string;
}

/**
 * The journal is first. A turn that is replayed between the copies is then in both, and replaying it again changes
 * nothing.
 */
function sourcesOf({ dataDir, database }: Config): Source[] {
  const journal = { name: 'journal.sqlite', path: join(dataDir, 'journal.sqlite') } as const;
  const sources = existsSync(journal.path) ? [journal] : [];
  if (database.target.kind !== 'sqlite') return sources;
  const { file } = database.target;
  if (!existsSync(file)) throw new CommandError(`There is nothing to back up: ${file} does not exist`);
  return [...sources, { name: 'chat.sqlite', path: file }];
}

/** @throws CommandError when the folder is not empty, or is inside DATA_DIR */
function prepareFolder(folder: string, dataDir: string): void {
  const inside = relative(dataDir, folder);
  if (inside === '' || !(inside.startsWith('..') || isAbsolute(inside))) {
    throw new CommandError(`DIR must be outside DATA_DIR (${dataDir})`);
  }
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (readdirSync(folder).length > 0) throw new CommandError(`${folder} is not empty: name a new folder`);
}

async function backUp(sources: readonly Source[], folder: string): Promise<void> {
  const files: CopiedFile[] = [];
  for (const { name, path } of sources) {
    const copy = join(folder, name);
    copyDatabase(path, copy);
    const file = await describeFile(copy, name);
    files.push(file);
    console.log(sentence(file));
  }
  const manifest: Manifest = {
    program: 'chat-api-server',
    version: packageJson.version,
    created_at: new Date().toISOString(),
    files,
  };
  const path = join(folder, MANIFEST);
  writeFileSync(path, `${JSON.stringify(manifest, null, 2)}\n`, { mode: 0o600 });
  syncToDisk(path);
}

async function main(): Promise<void> {
  const { positionals } = readArguments(USAGE, { options: {}, allowPositionals: true });
  const [directory] = positionals;
  if (directory === undefined || positionals.length > 1) failUsage('Name one folder', USAGE);
  const config = loadConfig(loadEnvironment());
  const folder = resolve(directory);
  const sources = sourcesOf(config);
  if (sources.length === 0) throw new CommandError(`There is nothing to back up in ${config.dataDir}`);
  prepareFolder(folder, config.dataDir);
  try {
    await backUp(sources, folder);
  } catch (error) {
    for (const { name } of sources) rmSync(join(folder, name), { force: true });
    throw error;
  }
  console.log(`backup complete: ${folder}`);
  if (config.database.target.kind === 'mysql') {
    console.log('the database is on MySQL: back it up with mysqldump --single-transaction');
  }
}

await runCommand(main);
