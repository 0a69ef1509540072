/** Reads files of this server, of ChatGPT and of Open WebUI, one conversation at a time. */
import { JSONParser } from '@streamparser/json';
import { ImportError } from '../../src/domain/conversations/imports.ts';
import { importEntries } from '../../src/http/request/import-file.ts';
import { importedLine } from '../../src/http/request/import-line.ts';
import type { ImportEntry } from '../../src/services/imports/imports.ts';
import { isObject } from '../../src/util/json.ts';
import { fromChatGpt, isChatGpt } from './chatgpt.ts';
import { fromOpenWebUi, isOpenWebUi } from './open-webui.ts';

/** The format is recognized by this many bytes at the start. */
const SAMPLE = 4096;
const ZIP = 'PK\u0003\u0004';
/** A JSON export of this server. Every other file that begins with a brace is NDJSON. */
const JSON_EXPORT = /^\{\s*"metadata"\s*:\s*\{\s*"format"\s*:\s*"json"/;
const ZIPPED = 'is a ZIP file: unpack it and import the conversations.json in it';
const UNKNOWN = 'is not an export of this server, of ChatGPT or of Open WebUI';
/** Maximum bytes of one conversation, which is in memory. */
const MAX_ITEM = 256 * 1024 * 1024;
const TOO_LONG = 'is longer than 256 MB; what follows cannot be read';
const DAMAGED = 'is not JSON, or ends too early; what follows cannot be read';

/**
 * Entries are numbered by line in NDJSON, and by conversation in other files.
 * @param blocks each valid until the next one is requested
 */
export async function* fileEntries(blocks: AsyncIterable<Buffer>): AsyncGenerator<ImportEntry> {
  const source = blocks[Symbol.asyncIterator]();
  const { sample, all } = await firstBytes(source);
  const begin = sample
    .toString('latin1')
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart();
  if (begin.startsWith('[')) yield* itemEntries(all, '$.*');
  else if (JSON_EXPORT.test(begin)) yield* itemEntries(all, '$.conversations.*');
  else if (begin === '' || /^\{/m.test(begin)) yield* importEntries(all);
  else yield { line: 1, bytes: 0, error: begin.startsWith(ZIP) ? ZIPPED : UNKNOWN };
}

/**
 * Reads a sample. `all` gives it again and then the rest; an error of the source is thrown only after the bytes before
 * it.
 */
async function firstBytes(source: AsyncIterator<Buffer>) {
  const blocks: Buffer[] = [];
  let size = 0;
  let rest: AsyncIterator<Buffer> = source;
  while (size < SAMPLE) {
    const next = await source.next().catch((error: unknown) => {
      rest = { next: () => Promise.reject(error) };
      return { done: true as const, value: undefined };
    });
    if (next.done) break;
    blocks.push(Buffer.from(next.value));
    size += next.value.length;
  }
  const sample = Buffer.concat(blocks);
  return { sample, all: continued(sample, rest) };
}

async function* continued(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  if (first.length > 0) yield first;
  yield* { [Symbol.asyncIterator]: () => rest };
}

/** The conversations of one JSON document. When the format of the first one is unknown, the others are not read. */
async function* itemEntries(blocks: AsyncIterable<Buffer>, path: string): AsyncGenerator<ImportEntry> {
  const items = new ItemReader(path);
  let line = 0;
  try {
    for await (const block of blocks) {
      let bytes = block.length;
      for (const value of items.read(block)) {
        line += 1;
        const entry = { line, bytes, ...converted(value) };
        bytes = 0;
        yield entry;
        if (line === 1 && entry.error === UNKNOWN) return;
      }
      items.check();
    }
    items.end();
  } catch (error) {
    if (!(error instanceof ImportError)) throw error;
    yield { line: line + 1, bytes: 0, error: error.message };
  }
}

class ItemReader {
  readonly #parser: JSONParser;
  readonly #found: unknown[] = [];
  #isBroken = false;
  /** The number of bytes of the value that is being read. */
  #bytes = 0;

  constructor(path: string) {
    this.#parser = new JSONParser({ paths: [path], keepStack: false, stringBufferSize: 64 * 1024 });
    this.#parser.onValue = ({ value }) => {
      this.#found.push(value);
    };
  }

  /** The values that end in this block. */
  read(block: Buffer): unknown[] {
    this.#bytes += block.length;
    try {
      this.#parser.write(block);
    } catch {
      this.#isBroken = true;
    }
    if (this.#found.length > 0) this.#bytes = 0;
    return this.#found.splice(0);
  }

  /** @throws ImportError when no more can be read */
  check(): void {
    if (this.#isBroken) throw new ImportError(DAMAGED);
    if (this.#bytes > MAX_ITEM) throw new ImportError(TOO_LONG);
  }

  /** @throws ImportError when the document has not ended */
  end(): void {
    if (!this.#parser.isEnded) throw new ImportError(DAMAGED);
  }
}

/** The converted conversation, or an error; neither for a deletion in an incremental export. */
function converted(value: unknown): Pick<ImportEntry, 'conversation' | 'renamed' | 'error'> {
  const convert = converterOf(value);
  if (!convert) return { error: UNKNOWN };
  try {
    const conversation = importedLine(convert(true));
    return conversation ? { conversation, renamed: () => importedLine(convert(false)) ?? conversation } : {};
  } catch (error) {
    if (error instanceof ImportError) return { error: error.message };
    throw error;
  }
}

/** @returns undefined for a value of an unknown format */
function converterOf(value: unknown): ((keepIds: boolean) => unknown) | undefined {
  if (!isObject(value)) return undefined;
  if (isChatGpt(value)) return (keepIds) => fromChatGpt(value, keepIds);
  if (isOpenWebUi(value)) return (keepIds) => fromOpenWebUi(value, keepIds);
  return 'conversation_id' in value ? () => value : undefined;
}
