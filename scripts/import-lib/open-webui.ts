/** Converts a chat of Open WebUI's export into a conversation of an NDJSON export. */
import { isObject } from '../../src/util/json.ts';
import {
  fenced,
  list,
  type Members,
  members,
  modelOf,
  paragraphs,
  placeholder,
  shortened,
  text,
  time,
  titleOf,
} from './loose-json.ts';
import { conversationOf, type Said, type Tree, type TreeNode } from './tree.ts';

export function isOpenWebUi(value: Members): boolean {
  const { history, messages } = members(value.chat);
  return isObject(history) || Array.isArray(messages);
}

/** @param keepIds whether message ids that are UUIDs stay as they are */
export function fromOpenWebUi(item: Members, keepIds: boolean): object {
  const chat = members(item.chat);
  const tree = treeOf(chat);
  const seed = JSON.stringify([chat.title, chat.timestamp, tree.nodes[0]?.id]);
  const head = {
    id: text(item.id) || text(chat.id) || seed,
    created: time(item.created_at) ?? time(chat.timestamp),
    updated: time(item.updated_at),
    title: titleOf(item.title) ?? titleOf(chat.title),
    system: text(members(chat.params).system) || text(chat.system) || undefined,
    pinned: item.pinned === true,
  };
  return conversationOf(tree, head, keepIds);
}

function treeOf({ history, messages }: Members): Tree {
  const { messages: tree, currentId } = members(history);
  if (isObject(tree)) {
    const nodes = Object.entries(tree).map(([id, value]) => nodeOf(id, members(value), null));
    return { nodes, current: text(currentId) || null };
  }
  // Early versions had one branch.
  const nodes: TreeNode[] = [];
  for (const [at, value] of list(messages).entries()) {
    const message = members(value);
    nodes.push(nodeOf(text(message.id) || `${at}`, message, nodes.at(-1)?.id ?? null));
  }
  return { nodes, current: nodes.at(-1)?.id ?? null };
}

function nodeOf(id: string, message: Members, before: string | null): TreeNode {
  return {
    id,
    parent: text(message.parentId) || before,
    time: time(message.timestamp),
    said: saidIn(message),
  };
}

function saidIn(message: Members): Said | null {
  const { role } = message;
  const files = list(message.files).map(members);
  const content = contentOf(message.content);
  if (role === 'user') {
    const images = [...content.images, ...files.filter(isImage).map(urlOf)];
    const kept = images.filter((url) => DATA_URL.test(url));
    const said = paragraphs(content.text, ...placeholders(images.length - kept.length), ...filesIn(files));
    if (said === '' && kept.length === 0) return null;
    return { role, text: said, steps: '', images: kept, more: {} };
  }
  if (role === 'system')
    return content.text === '' ? null : { role, text: content.text, steps: '', images: [], more: {} };
  if (role !== 'assistant') return null;
  const { said, steps } = withoutDetails(content.text);
  const shown = paragraphs(said, ...placeholders(content.images.length + files.filter(isImage).length));
  const more = { ...endOf(message), ...feedbackOf(message), ...usageOf(message) };
  const before = steps || stepsOf(message);
  return shown === '' && before === '' && !message.error
    ? null
    : { role, text: shown, steps: before, images: [], more };
}

/** Reads content, which is text or a list of parts as in OpenAI's API. */
function contentOf(content: unknown): { text: string; images: string[] } {
  if (!Array.isArray(content)) return { text: text(content), images: [] };
  const parts = content.map(members);
  const images = parts
    .filter(({ type }) => type === 'image_url')
    .map((part) => text(members(part.image_url).url));
  return { text: paragraphs(...parts.map((part) => text(part.text))), images };
}

const DATA_URL = /^data:image\/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$/;
const isImage = ({ type }: Members) => type === 'image';
const urlOf = ({ url }: Members) => text(url);
const placeholders = (count: number) => Array<string>(count).fill(placeholder('image'));

function filesIn(files: readonly Members[]): string[] {
  const named = files.filter((file) => !isImage(file));
  return named.map((file) => placeholder('file', text(file.name) || text(members(file.file).filename)));
}

/** Matches reasoning and tool calls, which are HTML in the text. */
const DETAILS =
  /<details type="(?:reasoning|tool_calls|code_interpreter)"((?:\s+[\w-]+(?:="[^"]*"|='[^']*')?)*)\s*>(?:\n?<summary>[^<]*<\/summary>)?([\s\S]*?)(?:<\/details>\n*|$)/g;
const ATTRIBUTE = /\s(name|arguments|result|output)=(?:"([^"]*)"|'([^']*)')/g;

function withoutDetails(content: string): { said: string; steps: string } {
  const steps: string[] = [];
  const said = content.replace(DETAILS, (_, opening: string, body: string) => {
    const attributes = new Map<string, string>();
    for (const [, name = '', double, single] of opening.matchAll(ATTRIBUTE)) {
      attributes.set(name, jsonText(unescaped(double ?? single ?? '')));
    }
    const call = [attributes.get('name') ?? '', fenced(attributes.get('arguments') ?? '')];
    const result = fenced(attributes.get('result') ?? attributes.get('output') ?? '');
    steps.push(paragraphs(...call, unquoted(unescaped(body).trim()), result));
    return '';
  });
  return { said: said.trim(), steps: paragraphs(...steps) };
}

/** Removes the `>` of a text that is one block quote. */
function unquoted(quote: string): string {
  const lines = quote.split('\n');
  return lines.every((line) => /^>|^$/.test(line))
    ? lines.map((line) => line.replace(/^> ?/, '')).join('\n')
    : quote;
}

const ENTITIES: Readonly<Record<string, string>> = {
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  '#39': "'",
  '#x27': "'",
  amp: '&',
};

function unescaped(html: string): string {
  return html.replace(/&(lt|gt|quot|apos|#39|#x27|amp);/g, (_, name: string) => ENTITIES[name] ?? '');
}

/** Reads arguments and results, which are JSON, often a JSON string with JSON in it. */
function jsonText(json: string): string {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'string' ? text(value) : json;
  } catch {
    return json;
  }
}

/** Reads the steps of newer versions, which keep them outside the text as items of OpenAI's Responses API. */
function stepsOf(message: Members): string {
  const items = list(message.output).map(members);
  const texts = (value: unknown) => list(value).map((part) => text(members(part).text));
  const steps = items.map((item) => {
    if (item.type === 'reasoning') return paragraphs(...texts(item.content), ...texts(item.summary));
    if (item.type === 'function_call') return paragraphs(text(item.name), fenced(text(item.arguments)));
    if (item.type !== 'function_call_output') return '';
    return fenced(text(item.output) || paragraphs(...texts(item.output)));
  });
  return paragraphs(text(message.reasoning_content), ...steps);
}

function endOf({ model, error, done }: Members): object {
  const isBroken = Boolean(error) || done === false;
  const end = isBroken
    ? { status: 'incomplete', finish_reason: 'error' }
    : { status: 'complete', finish_reason: 'stop' };
  return { ...modelOf(model), ...end };
}

const COMMENT_CHARS = 2000;

function feedbackOf({ annotation }: Members): object {
  const { rating, comment } = members(annotation);
  if (rating !== 1 && rating !== -1) return {};
  const said = shortened(text(comment), COMMENT_CHARS);
  return { feedback: { rating: rating === 1 ? 'up' : 'down', comment: said || null } };
}

function usageOf(message: Members): object {
  const { prompt_tokens, completion_tokens, total_tokens } = members(message.usage);
  const usage = { prompt_tokens, completion_tokens, total_tokens };
  return Object.values(usage).every((count) => Number.isSafeInteger(count)) ? { usage } : {};
}
