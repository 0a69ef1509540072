/** Compares an export file with its manifest: `npm run export:verify -- FILE [MANIFEST]`. */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { exportManifest } from '../src/http/schemas/export-jobs.ts';
import { verifyExport } from './export-lib/verify.ts';

const USAGE = 'usage: npm run export:verify -- FILE [MANIFEST]   (default: FILE.manifest.json)';

async function main(file: string, manifestFile: string): Promise<void> {
  const parsed = exportManifest.safeParse(jsonOf(await readFile(manifestFile, 'utf8')));
  if (!parsed.success) throw new Error(`${manifestFile} is not an export manifest`);
  const manifest = parsed.data;
  const problems = await verifyExport(file, manifest);
  if (problems.length > 0) throw new Error(`${file} does not match its manifest: ${problems.join('; ')}`);
  const { conversations, messages, deleted, bytes, sha256 } = manifest;
  console.log(
    `${file} is complete: ${conversations} conversations, ${messages} messages, ${deleted} deleted, ${bytes} bytes, sha256 ${sha256}`,
  );
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

try {
  const { positionals } = parseArgs({ allowPositionals: true });
  const [file, manifest = `${file}.manifest.json`, ...more] = positionals;
  if (file === undefined || more.length > 0) throw new Error(USAGE);
  await main(file, manifest);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
