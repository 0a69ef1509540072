import { randomUUID } from 'node:crypto';
import type { ToolCall } from '../../domain/conversations/conversation.ts';
import { isObject } from '../../util/json.ts';
import type { ByteBudget } from './limits.ts';
import { cleanText } from './reply-text.ts';
import { isShallow, type Json, parseObject, textOf } from './shapes.ts';

/** How many bytes of the budget a call takes besides its texts. */
const CALL_BYTES = 64;

interface Draft {
  readonly index: number | undefined;
  id: string;
  name: string;
  args: string;
  /** Members that the provider requires in the next request, such as a signature. */
  readonly others: Json;
  /** Whether the last piece of `args` ends with a brace. Only then `args` is parsed, which takes time. */
  endsWithBrace: boolean;
}

/** One entry of `tool_calls`. */
interface Piece {
  readonly index: number | undefined;
  readonly id: string;
  readonly name: string;
  readonly args: string;
  readonly others: Json;
}

/**
 * Assembles tool calls from their pieces. Some model servers leave out the index or the id, repeat id and name, send
 * all calls under one index, or send whole calls with their arguments as an object.
 */
export class ToolCalls {
  readonly #budget: ByteBudget;
  readonly #drafts: Draft[] = [];

  constructor(budget: ByteBudget) {
    this.#budget = budget;
  }

  /** @param entries the `tool_calls` of one piece of the reply */
  add(entries: readonly unknown[]): void {
    // A named entry of the same list is another call.
    const touched = new Set<Draft>();
    for (const [position, entry] of entries.entries()) {
      if (!isObject(entry) || this.#budget.isExceeded) continue;
      const piece = pieceOf(entry);
      const known = this.#find(piece, entries.length > 1 ? position : undefined);
      const isAnother = known && piece.name !== '' && (touched.has(known) || startsAnother(known, piece));
      const draft = !known || isAnother ? this.#begin(piece) : known;
      touched.add(draft);
      this.#budget.take(piece.id.length + piece.name.length + Buffer.byteLength(piece.args));
      this.#addOthers(draft, piece.others);
      extend(draft, piece);
    }
  }

  /** The calls, each with an id of its own. */
  finished(): ToolCall[] {
    const ids = new Set<string>();
    return this.#drafts
      .filter(({ name }) => name !== '')
      .map(({ id: given, name, args, others }) => {
        const id = given === '' || ids.has(given) ? `call_${randomUUID().replaceAll('-', '')}` : given;
        ids.add(id);
        const call = { name: cleanText(name), arguments: args.trim() === '' ? '{}' : cleanText(args) };
        return { id: cleanText(id), type: 'function', function: call, ...others };
      });
  }

  /** @param position in a list of several entries */
  #find({ index, id, name }: Piece, position: number | undefined): Draft | undefined {
    if (index !== undefined) return this.#drafts.findLast((draft) => draft.index === index);
    const last = this.#drafts.at(-1);
    const byId = id === '' ? undefined : this.#drafts.find((draft) => draft.id === id);
    if (byId) return byId;
    // A piece without a name continues a call. Its id is not compared, because some servers invent one for every piece.
    if (name === '') return position === undefined ? last : this.#drafts[position];
    return id === '' ? last : undefined;
  }

  /** Keeps the last value of each member. */
  #addOthers(draft: Draft, others: Json): void {
    for (const [name, value] of Object.entries(others)) {
      if (value === null || name === '__proto__' || !isClean(name) || !isClean(value)) continue;
      this.#budget.take(name.length + Buffer.byteLength(jsonOf(value)));
      draft.others[name] = value;
    }
  }

  #begin({ index }: Piece): Draft {
    const draft = { index, id: '', name: '', args: '', others: {}, endsWithBrace: false };
    this.#drafts.push(draft);
    this.#budget.take(CALL_BYTES);
    return draft;
  }
}

function pieceOf(entry: Json): Piece {
  const { index, id: _, type: __, function: called, name: ___, arguments: ____, ...others } = entry;
  const call = isObject(called) ? called : entry;
  const args = call.arguments;
  return {
    index: typeof index === 'number' ? index : undefined,
    id: textOf(entry, 'id'),
    name: textOf(call, 'name'),
    args: isNested(args) ? jsonOf(args) : textOf(call, 'arguments'),
    others,
  };
}

/** Whether a piece with a name begins a new call, and does not continue `draft`. */
function startsAnother(draft: Draft, { id, name, args }: Piece): boolean {
  if (id !== '' && draft.id !== '') return id !== draft.id;
  return draft.endsWithBrace && !(name === draft.name && args === draft.args) && isWhole(draft.args);
}

function extend(draft: Draft, { id, name, args }: Piece): void {
  const isRepeated = name !== '' && name === draft.name && args === draft.args && isWhole(args);
  draft.id ||= id;
  // Some servers send a name in pieces, others repeat it with every piece.
  if (name.startsWith(draft.name)) draft.name = name;
  else if (draft.args === '') draft.name += name;
  if (isRepeated) return;
  draft.args += args;
  if (args.trim() !== '') draft.endsWithBrace = /\}\s*$/.test(args.slice(-16));
}

/** The JSON text; '' for a value that is nested too deeply. */
function jsonOf(value: unknown): string {
  return isShallow(value) ? JSON.stringify(value) : '';
}

/** Whether the value can be stored and imported unchanged. */
function isClean(value: unknown): boolean {
  if (typeof value === 'string') return cleanText(value) === value;
  return !isNested(value) || (isShallow(value) && Object.entries(value).flat().every(isClean));
}

function isNested(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

function isWhole(args: string): boolean {
  return parseObject(args) !== undefined;
}
