import { GREATER } from '../chars.ts';
import type { Cursor } from '../cursor.ts';
import {
  type Fence,
  type HtmlEnd,
  headingLevel,
  htmlStart,
  type ItemStart,
  isClosingFence,
  isDelimiterRow,
  isSetextUnderline,
  isThematicBreak,
  itemStart,
  mathStart,
  openingFence,
} from './line-starts.ts';

/** An open block quote or list item. */
export type Container = { readonly kind: 'quote' } | Item;

export interface Item {
  readonly kind: 'item';
  readonly width: number;
  /** Indentation of the item's lines in the text. */
  readonly indent: string;
  /** Whether the item has only its marker so far. */
  empty: boolean;
}

/** The state of the innermost open block that the next line depends on. */
export type OpenLeaf =
  | { readonly kind: 'none' | 'table' | 'indented' }
  /** `cells`: number of cells if the last line may be the header of a table, else 0. */
  | { readonly kind: 'paragraph'; readonly cells: number }
  | { readonly kind: 'fence'; readonly fence: Fence }
  | Literal;

/** HTML or a display formula, whose source is the text. A formula ends at a blank line too. */
export interface Literal {
  readonly kind: 'html' | 'math';
  readonly end: HtmlEnd;
}

/**
 * The kind of a line. `more` continues the open block. `lazy` continues the open paragraph although the line lacks
 * the marks of the containers or is indented like code; it cannot be part of a table.
 */
export type Role =
  | { readonly kind: 'blank' | 'more' | 'lazy' | 'closing' | 'underline' | 'delimiter' | 'break' }
  | { readonly kind: 'paragraph' | 'heading' | 'indented' }
  | { readonly kind: 'fence'; readonly fence: Fence }
  | Literal;

export interface LinePlan {
  /** How many of the open containers the line continues. */
  readonly matched: number;
  /** Containers that the line opens; null is a block quote. */
  readonly opens: readonly (ItemStart | null)[];
  readonly role: Role;
}

const CODE_INDENT = 4;
/** Deeper quotes and lists are text, because the cost of a line grows with its nesting. */
const MAX_DEPTH = 100;

/** Classifies a line and moves the cursor to the start of its text. */
export function planLine(cursor: Cursor, containers: readonly Container[], leaf: OpenLeaf): LinePlan {
  const matched = matchContainers(cursor, containers);
  const inside = matched === containers.length;
  const opens: (ItemStart | null)[] = [];
  const continued = inside ? continueCode(cursor, leaf) : null;
  if (continued) return { matched, opens, role: continued };
  for (;;) {
    const direct = inside && opens.length === 0;
    const open = direct ? leaf : opens.length === 0 && leaf.kind === 'paragraph' ? 'lazy' : null;
    const code = cursor.indent < CODE_INDENT ? cursor.next : -1;
    const deep = matched + opens.length >= MAX_DEPTH;
    if (code === GREATER && !deep) {
      cursor.skipText(1);
      cursor.skipColumns(1);
      opens.push(null);
      continue;
    }
    const role = startLeaf(cursor, open);
    if (role) return { matched, opens, role };
    const item = deep ? null : itemStart(cursor, direct && leaf.kind === 'paragraph');
    if (!item) return { matched, opens, role: textRole(cursor, open) };
    opens.push(item);
  }
}

function matchContainers(cursor: Cursor, containers: readonly Container[]): number {
  let matched = 0;
  for (const container of containers) {
    if (container.kind === 'quote') {
      if (cursor.indent >= CODE_INDENT || cursor.next !== GREATER) break;
      cursor.skipText(1);
      cursor.skipColumns(1);
    } else {
      if (cursor.isBlank ? container.empty : cursor.indent < container.width) break;
      cursor.skipColumns(container.width);
    }
    matched++;
  }
  return matched;
}

function continueCode(cursor: Cursor, leaf: OpenLeaf): Role | null {
  switch (leaf.kind) {
    case 'fence':
      if (isClosingFence(cursor, leaf.fence)) return { kind: 'closing' };
      cursor.skipColumns(leaf.fence.indent);
      return { kind: 'more' };
    case 'html':
      return leaf.end === 'blank' && cursor.isBlank ? null : { kind: 'more' };
    case 'math':
      return cursor.isBlank ? null : { kind: 'more' };
    case 'indented':
      if (cursor.indent < CODE_INDENT && !cursor.isBlank) return null;
      cursor.skipColumns(CODE_INDENT);
      return { kind: 'more' };
    default:
      return null;
  }
}

/** The open block that the line may continue; `lazy` is a paragraph of an inner container. */
type Open = OpenLeaf | 'lazy' | null;

function isParagraph(open: Open): boolean {
  return open === 'lazy' || open?.kind === 'paragraph';
}

function startLeaf(cursor: Cursor, open: Open): Role | null {
  if (cursor.isBlank) return { kind: 'blank' };
  if (cursor.indent >= CODE_INDENT) {
    if (isParagraph(open)) return textRole(cursor, open);
    cursor.skipColumns(CODE_INDENT);
    return { kind: 'indented' };
  }
  const level = headingLevel(cursor);
  if (level > 0) {
    cursor.skipText(level);
    return { kind: 'heading' };
  }
  const fence = openingFence(cursor);
  if (fence) return { kind: 'fence', fence };
  const end = htmlStart(cursor, isParagraph(open));
  if (end) return { kind: 'html', end };
  const mathEnd = mathStart(cursor);
  if (mathEnd) return { kind: 'math', end: mathEnd };
  if (open !== 'lazy' && open?.kind === 'paragraph' && isSetextUnderline(cursor))
    return { kind: 'underline' };
  return isThematicBreak(cursor) ? { kind: 'break' } : null;
}

/** A line of text: it continues a paragraph or table, or starts a paragraph. */
function textRole(cursor: Cursor, open: Open): Role {
  const indented = cursor.indent >= CODE_INDENT;
  cursor.skipText(0);
  if (open === 'lazy') return { kind: 'lazy' };
  if (open?.kind === 'table') return { kind: 'more' };
  if (open?.kind !== 'paragraph') return { kind: 'paragraph' };
  if (indented) return { kind: 'lazy' };
  return { kind: open.cells > 0 && isDelimiterRow(cursor, open.cells) ? 'delimiter' : 'more' };
}
