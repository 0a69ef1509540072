/** Purged conversations by day: `conversations-2026-03-21.ndjson.gz`, a manifest beside each file. */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import type { Instant } from '../domain/conversations/conversation.ts';
import type { ArchiveBatch, PurgeArchive } from '../domain/conversations/purge.ts';
import type { ExportManifest } from '../domain/exports/jobs.ts';
import type { Log } from '../domain/runtime.ts';
import { isoTime } from '../domain/time.ts';
import { makeFolder } from '../util/folders.ts';
import { writeAll } from './blocks.ts';
import { onlyMissing, saveManifest } from './export-files.ts';

/** A file of which the manifest is true; what may be behind `manifest.bytes` was never finished. */
interface Day {
  readonly name: string;
  readonly manifest: ExportManifest;
  /** Of those bytes. */
  readonly hash: Hash;
}

/** Each batch is a gzip member of its own; `zcat` and the like read them as one file. */
export function createPurgeArchive(folder: string, log: Log): PurgeArchive {
  /** Spares reading the whole file again for each batch. */
  let last: Day | undefined;

  const known = async (name: string, at: Instant): Promise<Day> => {
    const manifest = await readManifest(join(folder, manifestName(name)));
    if (manifest && last?.name === name && last.manifest.sha256 === manifest.sha256) return last;
    const hash = manifest && (await provenHash(join(folder, name), manifest));
    if (manifest && hash) return { name, manifest, hash };
    await setAside(folder, name, at, log);
    const none = emptyManifest(at);
    // Before the file: one without a manifest could hold anything.
    await save(folder, name, none);
    return { name, manifest: none, hash: createHash('sha256') };
  };

  return {
    async append(at, batch) {
      makeFolder(folder);
      const name = `conversations-${isoTime(at).slice(0, 10)}.ndjson.gz`;
      const day = await known(name, at);
      last = undefined;
      const hash = day.hash.copy();
      const bytes = await appendTo(join(folder, name), day.manifest.bytes, batch.lines, hash);
      const manifest = extended(day.manifest, batch, bytes, hash, at);
      await save(folder, name, manifest);
      last = { name, manifest, hash };
    },
  };
}

function manifestName(name: string): string {
  return name.replace(/\.ndjson\.gz$/, '.manifest.json');
}

async function readManifest(path: string): Promise<ExportManifest | null> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    return error instanceof SyntaxError ? null : onlyMissing(error);
  }
}

async function save(folder: string, name: string, manifest: ExportManifest): Promise<void> {
  await saveManifest(join(folder, manifestName(name)), manifest);
  await syncFolder(folder);
}

/** Of the bytes that the manifest speaks of; null when they are not those that it speaks of. */
async function provenHash(path: string, { bytes, sha256 }: ExportManifest): Promise<Hash | null> {
  const hash = createHash('sha256');
  if (bytes > 0) {
    const size = await stat(path).then(({ size }) => size, onlyMissing);
    if (size === null || size < bytes) return null;
    for await (const block of createReadStream(path, { end: bytes - 1 })) hash.update(block);
  }
  return hash.copy().digest('hex') === sha256 ? hash : null;
}

/** Keeps files that cannot be continued, for the operator. */
async function setAside(folder: string, name: string, at: Instant, log: Log): Promise<void> {
  for (const old of [name, manifestName(name)]) {
    const aside = old.replace('.', `.damaged-${at}.`);
    const moved = await rename(join(folder, old), join(folder, aside)).then(() => true, onlyMissing);
    if (moved) log.warn({ file: aside }, 'an archive did not match its manifest and was set aside');
  }
}

/** @returns how long the file is now; after a rejection it is as long as it was */
async function appendTo(
  path: string,
  from: number,
  lines: AsyncIterable<string>,
  hash: Hash,
): Promise<number> {
  const handle = await openAt(path, from);
  let bytes = from;
  try {
    await pipeline(Readable.from(lines), createGzip(), async (packed: AsyncIterable<Buffer>) => {
      for await (const block of packed) {
        hash.update(block);
        await writeAll(handle, block, bytes);
        bytes += block.length;
      }
    });
    await handle.sync();
    return bytes;
  } catch (error) {
    // Where the disk is full it gives back what was of no use. If this fails the next one does it.
    await handle.truncate(from).catch(() => {});
    throw error;
  } finally {
    await handle.close();
  }
}

/** Without what an attempt that broke off has left behind. */
async function openAt(path: string, bytes: number): Promise<FileHandle> {
  const handle = await open(path, bytes === 0 ? 'w' : 'r+');
  try {
    // Cutting a shorter file off would make it longer. The next attempt sets it aside.
    if ((await handle.stat()).size < bytes) throw new Error('an archive is shorter than its manifest says');
    await handle.truncate(bytes);
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** So that the names in it are as safe as what is in the files. Windows sees to that itself. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function emptyManifest(at: Instant): ExportManifest {
  const time = isoTime(at);
  return {
    format: 'ndjson',
    csv: null,
    compression: 'gzip',
    filter: {},
    conversations: 0,
    messages: 0,
    deleted: 0,
    bytes: 0,
    sha256: createHash('sha256').digest('hex'),
    first_message_id: null,
    last_message_id: null,
    started_at: time,
    finished_at: time,
    cursor: '',
  };
}

function extended(
  old: ExportManifest,
  batch: ArchiveBatch,
  bytes: number,
  hash: Hash,
  at: Instant,
): ExportManifest {
  const { conversations, messages, firstMessageId, lastMessageId } = batch.counts();
  return {
    ...old,
    conversations: old.conversations + conversations,
    messages: old.messages + messages,
    bytes,
    sha256: hash.copy().digest('hex'),
    first_message_id: old.first_message_id ?? firstMessageId,
    last_message_id: lastMessageId ?? old.last_message_id,
    finished_at: isoTime(at),
  };
}
