/** Export files in a folder of this host: `<id>.part` while they are made, then their own name, a manifest beside. */
import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { access, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../domain/errors.ts';
import type { Compression, ExportFiles, ExportManifest, ExportRequest } from '../domain/exports/jobs.ts';
import { makeFolder } from '../util/folders.ts';
import { openPart } from './part-file.ts';

const EXTENSION: Readonly<Record<Compression, string>> = { none: '', gzip: '.gz', zstd: '.zst' };

/** What the file is called; ids are UUIDs and need no escaping. */
function exportFileName(id: string, { format, compression }: ExportRequest): string {
  return `${id}.${format}${EXTENSION[compression]}`;
}

export function createExportFiles(folder: string): ExportFiles {
  const path = (name: string) => join(folder, name);
  return {
    async open(id, request, bytes) {
      makeFolder(folder);
      const place = {
        part: path(`${id}.part`),
        fresh: path(`${id}.${randomUUID()}.part`),
        target: path(exportFileName(id, request)),
      };
      const file = await openPart(place, request.compression, bytes);
      if (file) await removeOld(folder, id, place.part);
      return file;
    },

    async find(id, request) {
      const name = exportFileName(id, request);
      try {
        await access(path(name), constants.R_OK);
        return { folder, name };
      } catch {
        return null;
      }
    },

    async saveManifest(id, manifest) {
      await saveManifest(path(`${id}.manifest.json`), manifest);
    },

    async remove(id) {
      for (const name of await namesIn(folder)) {
        if (name.startsWith(`${id}.`)) await rm(path(name), { force: true });
      }
    },

    async sweep(known) {
      const ids = new Set(
        (await namesIn(folder)).flatMap((name) => /^([\da-f-]{36})\./.exec(name)?.[1] ?? []),
      );
      for (const id of ids) if (!(await known(id))) await this.remove(id);
    },
  };
}

export async function saveManifest(path: string, manifest: ExportManifest): Promise<void> {
  await saveText(path, `${JSON.stringify(manifest, null, 2)}\n`);
}

/** Whole or not at all. */
export async function saveText(path: string, text: string): Promise<void> {
  await writeFile(`${path}.part`, text, { flush: true });
  await rename(`${path}.part`, path);
}

/** What attempts have left behind that were killed while they went on with the part, or packed it. */
async function removeOld(folder: string, id: string, part: string): Promise<void> {
  const old = (await namesIn(folder)).filter((name) => name.startsWith(`${id}.`) && name.endsWith('.part'));
  for (const path of old.map((name) => join(folder, name))) {
    if (path !== part) await rm(path, { force: true });
  }
}

async function namesIn(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(onlyMissing)) ?? [];
}

/** @throws every error but that of a missing file */
export function onlyMissing(error: unknown): null {
  if (errorCode(error) === 'ENOENT') return null;
  throw error;
}
