/** Converts the message trees of other programs into lists, in which hidden branches are superseded messages. */
import { v5 } from 'uuid';

/** The message at one node of a tree. */
export interface Said {
  readonly role: 'user' | 'assistant' | 'system';
  readonly text: string;
  /** The steps before a reply: reasoning, tool calls and their results. */
  readonly steps: string;
  /** `data:` URLs. Only questions have them. */
  readonly images: readonly string[];
  /** Further members of a message of an NDJSON export. */
  readonly more: Readonly<Record<string, unknown>>;
}

export interface TreeNode {
  readonly id: string;
  readonly parent: string | null;
  /** Milliseconds since 1970; null: the time of the message before. */
  readonly time: number | null;
  /** Null: the node has no message to import. */
  readonly said: Said | null;
}

export interface Tree {
  /** In the order of the file. */
  readonly nodes: readonly TreeNode[];
  /** The last message of the branch that the program shows. */
  readonly current: string | null;
}

/** The namespace of the UUIDs (version 5), so that an id gives the same UUID in every import. */
const NAMESPACE = '5b1c1a2e-6d0f-4f5e-9f6a-0c1d7c9f3a41';
const UUID = /^[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}$/i;

/** The members of a conversation beside its messages. */
interface Head {
  /** Converted to a UUID if it is none. */
  readonly id: string;
  /** Milliseconds since 1970; null: the time of the first message. */
  readonly created: number | null;
  /** Null: the time of the last message. */
  readonly updated: number | null;
  readonly title: string | undefined;
  readonly system: string | undefined;
  readonly pinned: boolean;
}

/**
 * A conversation of an NDJSON export. One without any time has no messages, and its import fails.
 * @param keepIds whether message ids that are UUIDs stay as they are
 */
export function conversationOf(tree: Tree, head: Head, keepIds: boolean): object {
  const { id, created, updated, ...settings } = head;
  const uid = uuidOf(id, true);
  const times = tree.nodes.flatMap(({ time }) => time ?? []);
  const start = created ?? times.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  if (!Number.isFinite(start)) return { conversation_id: uid, ...settings, messages: [] };
  const end = updated ?? times.reduce((a, b) => Math.max(a, b), start);
  return {
    conversation_id: uid,
    created_at: new Date(start).toISOString(),
    last_active: new Date(Math.max(start, end)).toISOString(),
    ...settings,
    messages: messagesOf(tree, start, (node) => uuidOf(node, keepIds, uid)),
  };
}

/** @param keep whether an id that is a UUID stays as it is */
function uuidOf(id: string, keep: boolean, within = ''): string {
  return keep && UUID.test(id) ? id.toLowerCase() : v5(`${within}/${id}`, NAMESPACE);
}

/** A message of the list. */
interface Line {
  uid: string;
  time: number | null;
  readonly role: Said['role'];
  readonly isVisible: boolean;
  readonly question: string | undefined;
  readonly texts: string[];
  readonly steps: string[];
  images: readonly string[];
  more: Said['more'];
  /** The last node of the reply: a child of it can continue the reply. */
  tail: string;
}

/** The question and the reply to which the children of a node belong. */
interface Place {
  readonly question: string | undefined;
  readonly reply: Line | undefined;
}

/**
 * The messages of an NDJSON export. All assistant messages of one turn, with tool calls between them, become one reply.
 * Hidden branches are superseded, and come before the branch that replaced them.
 * @param start the time of the conversation's start, for messages at the beginning that have no time
 */
function messagesOf(tree: Tree, start: number, uid: (id: string) => string): object[] {
  const places = new Map<string, Place>();
  const lines: Line[] = [];
  for (const { node, isVisible } of inOrder(tree)) {
    const before = node.parent === null ? undefined : places.get(node.parent);
    const reply = continued(before?.reply, node, isVisible);
    const place = { question: before?.question, reply };
    const { said } = node;
    places.set(node.id, place);
    if (!said) continue;
    if (said.role === 'assistant' && reply) {
      extend(reply, said, node, uid);
      continue;
    }
    const line = lineOf(said, node, isVisible, place.question, uid);
    lines.push(line);
    if (said.role === 'assistant') places.set(node.id, { ...place, reply: line });
    else if (said.role === 'system') places.set(node.id, { question: place.question, reply: undefined });
    else places.set(node.id, { question: line.uid, reply: undefined });
  }
  let time = start;
  return lines.map((line) => {
    time = line.time ?? time;
    return presented(line, time);
  });
}

/** The reply, if the node continues it. Only the first child of its last node does. */
function continued(reply: Line | undefined, { id, parent }: TreeNode, isVisible: boolean): Line | undefined {
  if (!reply || reply.tail !== parent || reply.isVisible !== isVisible) return undefined;
  reply.tail = id;
  return reply;
}

function lineOf(
  { role, text, steps, images, more }: Said,
  { id, time }: TreeNode,
  isVisible: boolean,
  question: string | undefined,
  uid: (id: string) => string,
): Line {
  const line = { uid: uid(id), time, role, isVisible, question, images, more, tail: id };
  return { ...line, texts: text === '' ? [] : [text], steps: steps === '' ? [] : [steps] };
}

/** Adds a node to the reply, which gets the id and the time of its last node with text. */
function extend(
  reply: Line,
  { text, steps, more }: Said,
  { id, time }: TreeNode,
  uid: (id: string) => string,
): void {
  if (steps !== '') reply.steps.push(steps);
  reply.more = { ...reply.more, ...more };
  if (text === '') return;
  reply.texts.push(text);
  reply.uid = uid(id);
  reply.time = time ?? reply.time;
}

function presented(line: Line, time: number): object {
  const { uid, role, isVisible, question, texts, steps, images, more } = line;
  const content = texts.join('\n\n');
  const text = content === '' ? [] : [{ type: 'text', text: content }];
  const parts = [...text, ...images.map((url) => ({ type: 'image_url', image_url: { url } }))];
  return {
    ...{ id: uid, role, content, timestamp: new Date(time).toISOString() },
    ...more,
    ...(!isVisible && { status: 'superseded' }),
    ...(role === 'assistant' && question !== undefined && { reply_to: question }),
    ...(steps.length > 0 && { reasoning: steps.join('\n\n') }),
    ...(images.length > 0 && { parts }),
  };
}

/** The nodes, depth first, the visible branch after its siblings. Without recursion, because branches are long. */
function* inOrder({ nodes, current }: Tree): Generator<{ node: TreeNode; isVisible: boolean }> {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const visible = pathTo(current, nodes, byId);
  const children = Map.groupBy(nodes, ({ parent }) => (parent !== null && byId.has(parent) ? parent : null));
  const rank = ({ id, time }: TreeNode) => (visible.has(id) ? Number.POSITIVE_INFINITY : (time ?? 0));
  const newestFirst = (id: string | null) =>
    (children.get(id) ?? [])
      .toReversed()
      .sort((a, b) => (rank(a) < rank(b) ? 1 : rank(a) > rank(b) ? -1 : 0));
  const left = newestFirst(null);
  for (let node = left.pop(); node; node = left.pop()) {
    yield { node, isVisible: visible.has(node.id) };
    for (const child of newestFirst(node.id)) left.push(child);
  }
}

/** The ids from `current` up to the root; without a known `current`, from the newest message. */
function pathTo(
  current: string | null,
  nodes: readonly TreeNode[],
  byId: ReadonlyMap<string, TreeNode>,
): Set<string> {
  const newest = (a: TreeNode | undefined, b: TreeNode) =>
    b.said && (b.time ?? 0) >= (a?.time ?? 0) ? b : a;
  const end = byId.get(current ?? '') ?? nodes.reduce(newest, undefined);
  const path = new Set<string>();
  for (let node = end; node && !path.has(node.id); node = byId.get(node.parent ?? '')) path.add(node.id);
  return path;
}
