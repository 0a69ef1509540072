/** Export files in a folder of this host: `<id>.part` while they are made, then their own name, a manifest beside. */
import { createHash, type Hash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { access, type FileHandle, mkdir, open, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzip, zstdCompress } from 'node:zlib';
import type {
  Compression,
  ExportFiles,
  ExportFileWriter,
  ExportManifest,
  ExportRequest,
} from '../domain/export-jobs.ts';

/** How much text is packed and written at once. */
const BLOCK_BYTES = 4 * 1024 * 1024;

const packGzip = promisify(gzip);
const packZstd = promisify(zstdCompress);

/** Each block is a member (gzip) or a frame (zstd) of its own: joined they are one file to every reader. */
const PACK: Readonly<Record<Compression, (block: Buffer) => Promise<Buffer>>> = {
  none: (block) => Promise.resolve(block),
  gzip: (block) => packGzip(block, { level: 5 }),
  zstd: (block) => packZstd(block),
};

const EXTENSION: Readonly<Record<Compression, string>> = { none: '', gzip: '.gz', zstd: '.zst' };

/** What the file is called; ids are UUIDs and need no escaping. */
export function exportFileName(id: string, { format, compression }: ExportRequest): string {
  return `${id}.${format}${EXTENSION[compression]}`;
}

export function createExportFiles(folder: string): ExportFiles {
  const path = (name: string) => join(folder, name);
  return {
    async open(id, request, bytes) {
      await mkdir(folder, { recursive: true });
      const part = path(`${id}.part`);
      const handle = await open(part, bytes === 0 ? 'w' : 'r+').catch(onlyMissing);
      if (!handle) return null;
      const { size } = await handle.stat();
      if (size < bytes) {
        await handle.close();
        return null;
      }
      await handle.truncate(bytes);
      const hash = await hashOf(part);
      return new PartFile(
        handle,
        part,
        path(exportFileName(id, request)),
        PACK[request.compression],
        hash,
        bytes,
      );
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

/** Whole or not at all. */
export async function saveManifest(path: string, manifest: ExportManifest): Promise<void> {
  await writeFile(`${path}.part`, `${JSON.stringify(manifest, null, 2)}\n`, { flush: true });
  await rename(`${path}.part`, path);
}

class PartFile implements ExportFileWriter {
  readonly #handle: FileHandle;
  readonly #part: string;
  readonly #target: string;
  readonly #pack: (block: Buffer) => Promise<Buffer>;
  readonly #hash: Hash;
  #bytes: number;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;

  constructor(
    handle: FileHandle,
    part: string,
    target: string,
    pack: (block: Buffer) => Promise<Buffer>,
    hash: Hash,
    bytes: number,
  ) {
    this.#handle = handle;
    this.#part = part;
    this.#target = target;
    this.#pack = pack;
    this.#hash = hash;
    this.#bytes = bytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  async write(text: string): Promise<void> {
    const piece = Buffer.from(text);
    this.#waiting.push(piece);
    this.#waitingBytes += piece.length;
    if (this.#waitingBytes >= BLOCK_BYTES) await this.#flush();
  }

  async sync(): Promise<number> {
    await this.#flush();
    await this.#handle.datasync();
    return this.#bytes;
  }

  async finish(): Promise<{ bytes: number; sha256: string }> {
    await this.sync();
    await this.#handle.close();
    await rename(this.#part, this.#target);
    return { bytes: this.#bytes, sha256: this.#hash.digest('hex') };
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #flush(): Promise<void> {
    if (this.#waitingBytes === 0) return;
    const block = Buffer.concat(this.#waiting);
    this.#waiting = [];
    this.#waitingBytes = 0;
    const packed = await this.#pack(block);
    this.#hash.update(packed);
    for (let at = 0; at < packed.length; ) {
      const { bytesWritten } = await this.#handle.write(packed, at, packed.length - at, this.#bytes + at);
      at += bytesWritten;
    }
    this.#bytes += packed.length;
  }
}

/** Of what is there of the file already. */
async function hashOf(path: string): Promise<Hash> {
  const hash = createHash('sha256');
  if ((await stat(path)).size > 0) for await (const block of createReadStream(path)) hash.update(block);
  return hash;
}

async function namesIn(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(onlyMissing)) ?? [];
}

function onlyMissing(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null;
  throw error;
}
