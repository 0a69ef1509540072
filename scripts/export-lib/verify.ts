import { createHash } from 'node:crypto';
import type { ExportManifest } from '../../src/domain/exports/jobs.ts';
import { readBlocks } from '../../src/files/blocks.ts';
import type { Counter } from './counts.ts';
import { countCsv, countRawCsv } from './csv-counter.ts';
import { countJson, countNdjson } from './json-counter.ts';
import { unpacked } from './unpack.ts';

/**
 * Compares the file with its manifest, in memory that does not depend on its size.
 * @returns the differences
 * @throws the file system's error
 */
export async function verifyExport(path: string, manifest: ExportManifest): Promise<string[]> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const block of readBlocks(path)) {
    hash.update(block);
    bytes += block.length;
  }
  const found = differences({ bytes, sha256: hash.digest('hex') }, manifest);
  // The counts detect a file and manifest that were changed together, which the hash does not.
  try {
    const counts = await counterOf(manifest)(unpacked(readBlocks(path), manifest.compression));
    return [...found, ...differences(counts, manifest)];
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) throw error;
    return [...found, `the ${manifest.format} is broken: ${error instanceof Error ? error.message : error}`];
  }
}

function counterOf({ format, csv }: ExportManifest): Counter {
  if (format === 'csv') return csv === 'escaped' ? countCsv : countRawCsv;
  return format === 'json' ? countJson : countNdjson;
}

function differences(found: Partial<ExportManifest>, manifest: ExportManifest): string[] {
  const expected = new Map(Object.entries(manifest));
  return Object.entries(found).flatMap(([name, value]) => {
    const other = expected.get(name);
    return value === other ? [] : [`${name} is ${value}, not ${other}`];
  });
}
