/** Reads files of this server, of ChatGPT and of Open WebUI, one conversation at a time. */
import { JSONParser } from '@streamparser/json';
import { ImportError } from '../../src/domain/conversations/imports.ts';
import { importEntries } from '../../src/http/request/import-file.ts';
import { importedLine } from '../../src/http/request/import-line.ts';
import type { ImportEntry } from '../../src/services/imports/imports.ts';
import { fromChatGpt, isChatGpt } from './chatgpt.ts';
import { isMembers } from './loose-json.ts';
import { fromOpenWebUi, isOpenWebUi } from './open-webui.ts';

/** Bytes by which a format is recognized. */
const SAMPLE = 4096;
const ZIP = 'PK\u0003\u0004';
/** A JSON export of this server; every other file that begins with a brace has lines. */
const JSON_EXPORT = /^\{\s*"metadata"\s*:\s*\{\s*"format"\s*:\s*"json"/;
const ZIPPED = 'is a ZIP file: unpack it and import the conversations.json in it';
const UNKNOWN = 'is not an export of this server, of ChatGPT or of Open WebUI';
const DAMAGED = 'is not JSON, or ends too early; what follows cannot be read';

/**
 * The numbers of the entries are those of lines in NDJSON, else those of conversations.
 * @param blocks each valid until the next one is requested
 */
export async function* fileEntries(blocks: AsyncIterable<Buffer>): AsyncGenerator<ImportEntry> {
  const source = blocks[Symbol.asyncIterator]();
  const sample = await firstBytes(source);
  const begin = sample
    .toString('latin1')
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart();
  const all = continued(sample, source);
  if (begin.startsWith('[')) yield* itemEntries(all, '$.*');
  else if (JSON_EXPORT.test(begin)) yield* itemEntries(all, '$.conversations.*');
  else if (begin === '' || /^\{/m.test(begin)) yield* importEntries(all);
  else yield { line: 1, bytes: 0, error: begin.startsWith(ZIP) ? ZIPPED : UNKNOWN };
}

async function firstBytes(source: AsyncIterator<Buffer>): Promise<Buffer> {
  const blocks: Buffer[] = [];
  for (let size = 0; size < SAMPLE; ) {
    const { done, value } = await source.next();
    if (done) break;
    blocks.push(Buffer.from(value));
    size += value.length;
  }
  return Buffer.concat(blocks);
}

async function* continued(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  if (first.length > 0) yield first;
  yield* { [Symbol.asyncIterator]: () => rest };
}

/** Values of one JSON document. The first one tells whether all of them are of another program. */
async function* itemEntries(blocks: AsyncIterable<Buffer>, path: string): AsyncGenerator<ImportEntry> {
  const items = new ItemReader(path);
  let line = 0;
  for await (const block of blocks) {
    let bytes = block.length;
    for (const value of items.read(block)) {
      line += 1;
      const entry = { line, bytes, ...converted(value) };
      bytes = 0;
      yield entry;
      if (line === 1 && entry.error === UNKNOWN) return;
    }
    if (items.isBroken) break;
  }
  if (!items.isComplete) yield { line: line + 1, bytes: 0, error: DAMAGED };
}

class ItemReader {
  readonly #parser: JSONParser;
  readonly #found: unknown[] = [];
  isBroken = false;

  constructor(path: string) {
    this.#parser = new JSONParser({ paths: [path], keepStack: false, stringBufferSize: 64 * 1024 });
    this.#parser.onValue = ({ value }) => {
      this.#found.push(value);
    };
  }

  get isComplete(): boolean {
    return !this.isBroken && this.#parser.isEnded;
  }

  /** The values that end in this block. */
  read(block: Buffer): unknown[] {
    try {
      this.#parser.write(block);
    } catch {
      this.isBroken = true;
    }
    return this.#found.splice(0);
  }
}

/** Without conversation and error for a deletion of an incremental export. */
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

/** @returns undefined for what no known program has written */
function converterOf(value: unknown): ((keepIds: boolean) => unknown) | undefined {
  if (!isMembers(value)) return undefined;
  if (isChatGpt(value)) return (keepIds) => fromChatGpt(value, keepIds);
  if (isOpenWebUi(value)) return (keepIds) => fromOpenWebUi(value, keepIds);
  return 'conversation_id' in value ? () => value : undefined;
}
