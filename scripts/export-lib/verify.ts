import { createHash } from 'node:crypto';
import type { ExportManifest } from '../../src/domain/export-jobs.ts';
import { readBlocks } from '../../src/files/blocks.ts';
import { type Found, nothingFound, type Scanner } from './counts.ts';
import { csvCounter } from './csv-counter.ts';
import { jsonCounter } from './json-counter.ts';
import { unpacked } from './unpack.ts';

/**
 * Compares the file with what its manifest says of it, in memory that does not depend on its size.
 * @returns where they differ; empty when they do not
 * @throws the file system's error
 */
export async function verifyExport(path: string, manifest: ExportManifest): Promise<string[]> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const block of readBlocks(path)) {
    hash.update(block);
    bytes += block.length;
  }
  const faults = differences({ bytes, sha256: hash.digest('hex') }, manifest);
  // Whoever changed the bytes may have done it well; what is in them says it better.
  const found = nothingFound();
  try {
    const scanner = scannerOf(manifest, found);
    for await (const block of unpacked(readBlocks(path), manifest.compression)) scanner.write(block);
    scanner.end();
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) throw error;
    return [...faults, `the ${manifest.format} is broken: ${error instanceof Error ? error.message : error}`];
  }
  return [...faults, ...differences(found, manifest)];
}

function scannerOf({ format, csv }: ExportManifest, found: Found): Scanner {
  return format === 'csv' ? csvCounter(found, csv === 'escaped') : jsonCounter(found, format === 'ndjson');
}

function differences(found: Partial<ExportManifest>, manifest: ExportManifest): string[] {
  const said: Partial<ExportManifest> = manifest;
  return Object.entries(found).flatMap(([name, value]) => {
    const other = Object.entries(said).find(([key]) => key === name)?.[1];
    return value === other ? [] : [`${name} is ${value}, not ${other}`];
  });
}
