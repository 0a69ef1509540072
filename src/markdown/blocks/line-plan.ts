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
  openingFence,
} from './line-starts.ts';

/** A block quote or list item that is open. */
export type Container = { readonly kind: 'quote' } | Item;

export interface Item {
  readonly kind: 'item';
  readonly width: number;
  /** The indentation of the text form's lines inside it. */
  readonly indent: string;
  /** Whether nothing but its marker has come. */
  empty: boolean;
}

/** The innermost open block, as far as the next line depends on it. */
export type OpenLeaf =
  | { readonly kind: 'none' | 'table' | 'indented' }
  /** `cells`: of its last line if that may be the header of a table, else 0. */
  | { readonly kind: 'paragraph'; readonly cells: number }
  | { readonly kind: 'fence'; readonly fence: Fence }
  | { readonly kind: 'html'; readonly end: HtmlEnd };

/**
 * What a line is. `more` goes on with the open block; `lazy` goes on with the open paragraph although it lacks the
 * marks of its containers or is indented like code, and belongs to no table.
 */
export type Role =
  | { readonly kind: 'blank' | 'more' | 'lazy' | 'closing' | 'underline' | 'delimiter' | 'break' }
  | { readonly kind: 'paragraph' | 'heading' | 'indented' }
  | { readonly kind: 'fence'; readonly fence: Fence }
  | { readonly kind: 'html'; readonly end: HtmlEnd };

export interface LinePlan {
  /** How many of the open containers the line stands in. */
  readonly matched: number;
  /** Containers that it opens; null is a block quote. */
  readonly opens: readonly (ItemStart | null)[];
  readonly role: Role;
}

const CODE_INDENT = 4;
/** Deeper quotes and lists than this are text: every line would cost as much as it is nested. */
const MAX_DEPTH = 100;

/** Finds out what a line is, and leaves the cursor where its text starts. Changes nothing else. */
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
      cursor.passText(1);
      cursor.passColumns(1);
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
      cursor.passText(1);
      cursor.passColumns(1);
    } else {
      if (cursor.isBlank ? container.empty : cursor.indent < container.width) break;
      cursor.passColumns(container.width);
    }
    matched++;
  }
  return matched;
}

function continueCode(cursor: Cursor, leaf: OpenLeaf): Role | null {
  switch (leaf.kind) {
    case 'fence':
      if (isClosingFence(cursor, leaf.fence)) return { kind: 'closing' };
      cursor.passColumns(leaf.fence.indent);
      return { kind: 'more' };
    case 'html':
      return leaf.end === 'blank' && cursor.isBlank ? null : { kind: 'more' };
    case 'indented':
      if (cursor.indent < CODE_INDENT && !cursor.isBlank) return null;
      cursor.passColumns(CODE_INDENT);
      return { kind: 'more' };
    default:
      return null;
  }
}

/** The open block that the line could go on with: one of the same container, or lazily a paragraph further in. */
type Open = OpenLeaf | 'lazy' | null;

function isParagraph(open: Open): boolean {
  return open === 'lazy' || open?.kind === 'paragraph';
}

function startLeaf(cursor: Cursor, open: Open): Role | null {
  if (cursor.isBlank) return { kind: 'blank' };
  if (cursor.indent >= CODE_INDENT) {
    if (isParagraph(open)) return textRole(cursor, open);
    cursor.passColumns(CODE_INDENT);
    return { kind: 'indented' };
  }
  const level = headingLevel(cursor);
  if (level > 0) {
    cursor.passText(level);
    return { kind: 'heading' };
  }
  const fence = openingFence(cursor);
  if (fence) return { kind: 'fence', fence };
  const end = htmlStart(cursor, isParagraph(open));
  if (end) return { kind: 'html', end };
  if (open !== 'lazy' && open?.kind === 'paragraph' && isSetextUnderline(cursor))
    return { kind: 'underline' };
  return isThematicBreak(cursor) ? { kind: 'break' } : null;
}

/** A line of text: it goes on with a paragraph or table, or starts a paragraph. */
function textRole(cursor: Cursor, open: Open): Role {
  const indented = cursor.indent >= CODE_INDENT;
  cursor.passText(0);
  if (open === 'lazy') return { kind: 'lazy' };
  if (open?.kind === 'table') return { kind: 'more' };
  if (open?.kind !== 'paragraph') return { kind: 'paragraph' };
  if (indented) return { kind: 'lazy' };
  return { kind: open.cells > 0 && isDelimiterRow(cursor, open.cells) ? 'delimiter' : 'more' };
}
