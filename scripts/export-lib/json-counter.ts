import { addMessage, type Found, type Scanner } from './counts.ts';
import { type JsonReader, JsonScanner } from './json-scanner.ts';

/** Counts what an export to JSON or (`lines`) NDJSON holds, conversations of any length. */
export function jsonCounter(found: Found, lines: boolean): Scanner {
  const summary = lines ? undefined : new Map<string, string>();
  const scanner = new JsonScanner(new ExportReader(found, summary), lines);
  return {
    write: (block) => scanner.write(block),
    end() {
      scanner.end();
      if (!summary) return;
      const { conversations, messages } = found;
      for (const [name, count] of Object.entries({ conversations, messages })) {
        if (summary.get(name) !== String(count))
          throw new Error(`its summary does not count ${count} ${name}`);
      }
    },
  };
}

class ExportReader implements JsonReader {
  readonly #found: Found;
  readonly #summary: Map<string, string> | undefined;
  /** The depth of a conversation: a line, or a member of `conversations`. */
  readonly #base: number;
  #section: string | undefined;
  #hasMessages = false;
  #inMessages = false;
  #deleted = false;
  #messageId: string | undefined;

  constructor(found: Found, summary: Map<string, string> | undefined) {
    this.#found = found;
    this.#summary = summary;
    this.#base = summary ? 2 : 0;
  }

  open(kind: '{' | '[', depth: number, key: string | undefined): void {
    if (this.#summary && depth === 1) this.#section = key;
    if (!this.#counts()) return;
    if (depth === this.#base) {
      if (kind !== '{') throw new Error('a conversation is no object');
      this.#hasMessages = false;
      this.#deleted = false;
    } else if (depth === this.#base + 1) {
      this.#inMessages = key === 'messages' && kind === '[';
      this.#hasMessages ||= this.#inMessages;
    } else if (depth === this.#base + 2 && this.#inMessages) this.#messageId = undefined;
  }

  close(depth: number): void {
    if (!this.#counts()) return;
    if (depth === this.#base + 2 && this.#inMessages) {
      if (this.#messageId === undefined) throw new Error('a message has no id');
      addMessage(this.#found, this.#messageId);
    } else if (depth === this.#base + 1) this.#inMessages = false;
    else if (depth === this.#base) {
      if (this.#deleted) this.#found.deleted += 1;
      else if (this.#hasMessages) this.#found.conversations += 1;
      else throw new Error('a conversation has no messages and was not deleted');
    }
  }

  scalar(text: string | undefined, depth: number, key: string | undefined): void {
    if (this.#summary && depth === 2 && this.#section === 'summary' && key !== undefined) {
      this.#summary.set(key, text ?? '');
    }
    if (!this.#counts()) return;
    if (depth === this.#base) throw new Error('a conversation is no object');
    if (depth === this.#base + 1 && key === 'deleted') this.#deleted = text === 'true';
    if (depth === this.#base + 3 && key === 'id' && this.#inMessages) this.#messageId = text;
  }

  #counts(): boolean {
    return !this.#summary || this.#section === 'conversations';
  }
}
