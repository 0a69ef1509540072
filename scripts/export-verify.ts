/** Compares an export file with its manifest: `npm run export:verify -- FILE [MANIFEST]`. */
import { readFile } from 'node:fs/promises';
import { exportManifest } from '../src/http/schemas/export-jobs.ts';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { parseJson } from '../src/util/json.ts';
import { CommandError, runCommand } from './command.ts';
import { verifyExport } from './export-lib/verify.ts';

const USAGE = `usage: npm run export:verify -- FILE [MANIFEST]
Compares an export with its manifest (default: FILE.manifest.json). The exit code is 1 when they differ.`;

async function main(file: string, manifestFile: string): Promise<void> {
  const parsed = exportManifest.safeParse(parseJson(await readFile(manifestFile, 'utf8')));
  if (!parsed.success) throw new CommandError(`${manifestFile} is not an export manifest`);
  const manifest = parsed.data;
  const problems = await verifyExport(file, manifest);
  if (problems.length > 0)
    throw new CommandError(`${file} does not match its manifest: ${problems.join('; ')}`);
  const { conversations, messages, deleted, bytes, sha256 } = manifest;
  console.log(
    `${file} is complete: ${conversations} conversations, ${messages} messages, ${deleted} deleted, ${bytes} bytes, sha256 ${sha256}`,
  );
}

const { positionals } = readArguments(USAGE, { allowPositionals: true });
const [file, manifest = `${file}.manifest.json`, ...more] = positionals;
if (file === undefined || more.length > 0) failUsage('One file and at most one manifest are needed', USAGE);
else await runCommand(() => main(file, manifest));
