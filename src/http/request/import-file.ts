/** Reads an NDJSON export as conversations to import, in memory that does not depend on its size. */
import { isUtf8 } from 'node:buffer';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { JSONParser } from '@streamparser/json';
import { ImportError, type ImportedMessage } from '../../domain/conversations/imports.ts';
import { errorCode } from '../../domain/errors.ts';
import type { ImportEntry } from '../../services/imports/imports.ts';
import { importedConversation, importedLine, MessageReader } from './import-line.ts';

/** Bytes of a line from which its messages are read one by one. */
const LONG_LINE = 256 * 1024;
/** Bytes that are parsed in one step, so that no step blocks the event loop for long. */
const STEP = 32 * 1024;
const NEWLINE = 0x0a;
const NOT_JSON = 'is not JSON';

/** @param blocks each valid until the next one is requested */
export async function* importEntries(blocks: AsyncIterable<Buffer>): AsyncGenerator<ImportEntry> {
  let last = 0;
  try {
    for await (const line of new LineReader(blocks).lines()) {
      const { number, bytes, rest } = line;
      last = number;
      if (rest) yield await longEntry(number, rest);
      else if (!isBlank(bytes)) yield shortEntry(number, bytes);
    }
  } catch (error) {
    // The lines before are imported.
    yield { line: last + 1, bytes: 0, error: messageOf(error) };
  }
}

/** Decompressed blocks. Those that cannot be decompressed are an error of their line. */
export async function* decompressed(blocks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  try {
    yield* blocks;
  } catch (error) {
    if (!DAMAGED.test(errorCode(error) ?? '')) throw error;
    throw new ImportError('the compressed data is damaged or ends too early');
  }
}

/** Codes of zlib. */
const DAMAGED = /^Z_|^ZSTD_|^ERR_.*ZLIB|^ERR_ZSTD/;

interface Line {
  /** From 1. */
  readonly number: number;
  readonly bytes: Buffer;
  /** All of a long line, in pieces. */
  readonly rest?: AsyncGenerator<Buffer>;
}

class LineReader {
  readonly #blocks: AsyncIterator<Buffer>;
  #block: Buffer = Buffer.alloc(0);

  constructor(blocks: AsyncIterable<Buffer>) {
    this.#blocks = blocks[Symbol.asyncIterator]();
  }

  async *lines(): AsyncGenerator<Line> {
    for (let number = 1; ; number++) {
      const pieces: Buffer[] = [];
      let size = 0;
      for (;;) {
        const next = await this.#piece();
        if (!next && size === 0) return;
        if (next) {
          // The memory of a block is used again.
          pieces.push(next.isLast && size === 0 ? next.piece : Buffer.from(next.piece));
          size += next.piece.length;
        }
        if (size > LONG_LINE) {
          const rest = this.#longLine(pieces, next?.isLast ?? true);
          yield { number, bytes: Buffer.alloc(0), rest };
          // The reader of the line may have stopped early.
          for await (const _ of rest);
          break;
        }
        if (!next || next.isLast) {
          const [first] = pieces;
          yield { number, bytes: pieces.length === 1 && first ? first : Buffer.concat(pieces) };
          break;
        }
      }
    }
  }

  /** The next part of a line. */
  async #piece(): Promise<{ piece: Buffer; isLast: boolean } | undefined> {
    while (this.#block.length === 0) {
      const { done, value } = await this.#blocks.next();
      if (done) return undefined;
      this.#block = value;
    }
    const end = this.#block.indexOf(NEWLINE);
    const piece = end < 0 ? this.#block : this.#block.subarray(0, end);
    this.#block = this.#block.subarray(end < 0 ? this.#block.length : end + 1);
    return { piece, isLast: end >= 0 };
  }

  async *#longLine(pieces: Buffer[], isWhole: boolean): AsyncGenerator<Buffer> {
    yield* pieces.splice(0);
    if (isWhole) return;
    for (let next = await this.#piece(); next; next = await this.#piece()) {
      yield next.piece;
      if (next.isLast) return;
    }
  }
}

function isBlank(bytes: Buffer): boolean {
  return bytes.length < 3 && bytes.toString().trim() === '';
}

function shortEntry(line: number, bytes: Buffer): ImportEntry {
  try {
    const conversation = importedLine(parsed(bytes));
    return conversation ? { line, bytes: bytes.length, conversation } : { line, bytes: bytes.length };
  } catch (error) {
    return { line, bytes: bytes.length, error: messageOf(error) };
  }
}

function parsed(bytes: Buffer): unknown {
  if (!isUtf8(bytes)) throw new ImportError('is not UTF-8');
  try {
    return JSON.parse(bytes.toString().replace(/^\uFEFF/, ''));
  } catch {
    throw new ImportError(NOT_JSON);
  }
}

async function longEntry(line: number, pieces: AsyncGenerator<Buffer>): Promise<ImportEntry> {
  try {
    const reader = new LongLine(pieces);
    const head = await reader.head();
    return { line, bytes: LONG_LINE, conversation: importedConversation(head, reader.messages(), true) };
  } catch (error) {
    return { line, bytes: LONG_LINE, error: messageOf(error) };
  }
}

/** Only errors of the line: others concern the whole file. */
function messageOf(error: unknown): string {
  if (error instanceof ImportError) return error.message;
  throw error;
}

/** A conversation whose messages are read one by one. */
class LongLine {
  readonly #pieces: AsyncGenerator<Buffer>;
  readonly #parser = new JSONParser({ paths: ['$.messages.*', '$'], stringBufferSize: 64 * 1024 });
  readonly #reader = new MessageReader();
  /** Parsed and not yet read. */
  #found: unknown[] = [];
  #head: unknown;
  #count = 0;

  constructor(pieces: AsyncGenerator<Buffer>) {
    this.#pieces = pieces;
    this.#parser.onValue = ({ value, parent, stack }) => {
      if (stack.length === 0) {
        this.#head = value;
        return;
      }
      this.#head ??= { ...stack[1]?.value };
      this.#found.push(value);
      // So that memory does not grow with the line.
      if (Array.isArray(parent)) parent.length = 0;
    };
  }

  /** The members before the messages. @throws ImportError */
  async head(): Promise<unknown> {
    while (this.#head === undefined) if (!(await this.#parse())) break;
    const isConversation = typeof this.#head === 'object' && this.#head !== null && 'messages' in this.#head;
    if (!isConversation) throw new ImportError('is not a conversation of an export');
    return this.#head;
  }

  /** @throws ImportError */
  async *messages(): AsyncGenerator<ImportedMessage> {
    for (;;) {
      const found = this.#found;
      this.#found = [];
      for (const value of found) yield this.#reader.read(value, this.#count++);
      if (!(await this.#parse())) return;
    }
  }

  /** @returns false at the end */
  async #parse(): Promise<boolean> {
    const { done, value } = await this.#pieces.next();
    try {
      if (done) {
        if (!this.#parser.isEnded) throw new ImportError(NOT_JSON);
        return false;
      }
      for (let at = 0; at < value.length; at += STEP) {
        this.#parser.write(value.subarray(at, at + STEP));
        await nextTurn();
      }
    } catch {
      throw new ImportError(NOT_JSON);
    }
    return true;
  }
}
