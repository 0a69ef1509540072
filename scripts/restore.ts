/** `npm run restore -- DIR`: checks a backup, then puts its files into DATA_DIR. */
import { copyFileSync, existsSync, renameSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { type Config, loadConfig } from '../src/config/config.ts';
import { loadEnvironment } from '../src/config/environment.ts';
import { appliedMigrations, type BackupName, describeFile, sentence } from '../src/db/backup-file.ts';
import { MigrationFolder } from '../src/db/core/migrations.ts';
import { COMPANIONS, listWorkers } from '../src/db/workers/process-lock.ts';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { makeFolder } from '../src/util/folders.ts';
import { syncToDisk } from '../src/util/sync-to-disk.ts';
import { type Manifest, readManifest } from './backup-manifest.ts';
import { askFirst, CommandError, fileStamp, runCommand } from './command.ts';

const USAGE = `usage: npm run restore -- DIR [--yes]
Checks the backup in DIR, then puts its files into DATA_DIR. No server may use that folder.
  --yes  does not ask; files that are there are renamed, not overwritten`;

const STAGED = '.restoring';

interface Restored {
  readonly source: string;
  readonly target: string;
}

async function check(folder: string, manifest: Manifest): Promise<void> {
  for (const expected of manifest.files) {
    const path = join(folder, expected.name);
    if (!existsSync(path)) throw new CommandError(`${path} is missing. Nothing was restored`);
    const found = await describeFile(path, expected.name);
    if (found.sha256 !== expected.sha256) {
      throw new CommandError(
        `${path} is damaged: its SHA-256 differs from the manifest. Nothing was restored`,
      );
    }
    console.log(sentence(found));
  }
}

async function refuseNewer(path: string): Promise<void> {
  const known = await new MigrationFolder().names();
  const unknown = appliedMigrations(path).filter((name) => !known.includes(name));
  if (unknown.length === 0) return;
  throw new CommandError(
    `The backup is of a newer version: it has the migration ${unknown.join(', ')}. Install that version first`,
  );
}

function targetsOf(folder: string, { files }: Manifest, { dataDir, database }: Config): Restored[] {
  const { target } = database;
  const has = (name: BackupName) => files.some((file) => file.name === name);
  if (target.kind === 'mysql' && has('chat.sqlite')) {
    throw new CommandError(
      'The backup has a SQLite database, but DATABASE_URL names MySQL. Nothing was restored',
    );
  }
  if (target.kind === 'sqlite' && !has('chat.sqlite')) {
    throw new CommandError('The backup has no database, only a journal. Nothing was restored');
  }
  return files.map(({ name }) => ({
    source: join(folder, name),
    target: name === 'chat.sqlite' && target.kind === 'sqlite' ? target.file : join(dataDir, name),
  }));
}

function refuseAlive({ dataDir }: Config): void {
  const { alive } = listWorkers(join(dataDir, 'workers'));
  if (alive.length === 0) return;
  throw new CommandError(
    `Nothing was restored: ${alive.length} server processes use ${dataDir} (${alive.join(', ')}); stop them first`,
  );
}

/** Copies every file before it renames the first one, so that a failed copy leaves the old data in place. */
function replace(files: readonly Restored[], existing: readonly string[]): void {
  const stamp = fileStamp();
  for (const { source, target } of files) {
    copyFileSync(source, target + STAGED);
    syncToDisk(target + STAGED);
  }
  for (const path of existing) {
    for (const companion of COMPANIONS.filter((suffix) => existsSync(path + suffix))) {
      renameSync(path + companion, `${path}.before-restore-${stamp}${companion}`);
    }
  }
  for (const { target } of files) renameSync(target + STAGED, target);
}

async function main(): Promise<void> {
  const { values, positionals } = readArguments(USAGE, {
    options: { yes: { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  const [directory] = positionals;
  if (directory === undefined || positionals.length > 1) failUsage('Name one folder', USAGE);
  const config = loadConfig(loadEnvironment());
  const folder = resolve(directory);
  const manifest = readManifest(folder);
  console.log(`backup of ${manifest.created_at}, version ${manifest.version}`);
  await check(folder, manifest);
  const files = targetsOf(folder, manifest, config);
  for (const { source } of files) await refuseNewer(source);
  refuseAlive(config);
  // An existing journal is moved away even if the backup has none, because its turns belong to the replaced database.
  const places = new Set([...files.map(({ target }) => target), join(config.dataDir, 'journal.sqlite')]);
  // So is a -wal file without its database, because SQLite would replay it into the restored file.
  const existing = [...places].filter((path) => COMPANIONS.some((suffix) => existsSync(path + suffix)));
  for (const path of existing) console.log(`renames ${path}`);
  if (existing.length > 0 && !values.yes) await askFirst('Nothing was restored');
  refuseAlive(config);
  for (const { target } of files) makeFolder(dirname(target));
  replace(files, existing);
  console.log(`restored into ${config.dataDir}`);
}

await runCommand(main);
