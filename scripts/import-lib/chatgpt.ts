/** Converts a conversation of ChatGPT's `conversations.json` into one of an NDJSON export. */
import { isObject } from '../../src/util/json.ts';
import {
  fenced,
  list,
  type Members,
  members,
  modelOf,
  paragraphs,
  placeholder,
  text,
  time,
  titleOf,
} from './loose-json.ts';
import { conversationOf, type Said, type Tree, type TreeNode } from './tree.ts';

export function isChatGpt(value: Members): boolean {
  return isObject(value.mapping);
}

/** @param keepIds whether message ids that are UUIDs stay as they are */
export function fromChatGpt(item: Members, keepIds: boolean): object {
  const tree = treeOf(item);
  const seed = JSON.stringify([item.title, item.create_time, tree.nodes[0]?.id]);
  const head = {
    id: text(item.conversation_id) || text(item.id) || seed,
    created: time(item.create_time),
    updated: time(item.update_time),
    title: titleOf(item.title),
    system: instructions(item) || undefined,
    pinned: item.is_starred === true,
  };
  return conversationOf(tree, head, keepIds);
}

function treeOf(item: Members): Tree {
  const nodes = Object.entries(members(item.mapping)).map(([id, value]): TreeNode => {
    const { parent, message } = members(value);
    const said = isObject(message) ? saidIn(message) : null;
    return { id, parent: text(parent) || null, time: time(members(message).create_time), said };
  });
  return { nodes, current: text(item.current_node) || null };
}

/** The custom instructions of the user, which ChatGPT adds to each conversation. */
function instructions(item: Members): string {
  for (const node of Object.values(members(item.mapping))) {
    const message = members(members(node).message);
    const content = members(message.content);
    const older = members(members(message.metadata).user_context_message_data);
    const found = paragraphs(
      text(content.user_profile) || text(older.about_user_message),
      text(content.user_instructions) || text(older.about_model_message),
    );
    if (found !== '') return found;
  }
  return '';
}

/** Types of content that ChatGPT sends to the model and does not show. */
const CONTEXT = ['user_editable_context', 'model_editable_context'];

function saidIn(message: Members): Said | null {
  const content = members(message.content);
  const metadata = members(message.metadata);
  const { role } = members(message.author);
  if (metadata.is_visually_hidden_from_conversation === true) return null;
  if (CONTEXT.includes(text(content.content_type))) return null;
  if (role === 'user' || role === 'system') {
    const said = paragraphs(textOf(content, metadata), ...attachments(metadata));
    return said === '' ? null : { role, text: said, steps: '', images: [], more: {} };
  }
  if (role !== 'assistant' && role !== 'tool') return null;
  const isReply = role === 'assistant' && isForPeople(message) && !STEPS.includes(text(content.content_type));
  const said = isReply ? textOf(content, metadata) : imagesOf(content);
  const steps = isReply ? '' : stepOf(message, content, metadata);
  if (said === '' && steps === '') return null;
  return {
    role: 'assistant',
    text: said,
    steps,
    images: [],
    more: role === 'tool' ? {} : endOf(message, metadata),
  };
}

function isForPeople({ recipient }: Members): boolean {
  return typeof recipient !== 'string' || recipient === 'all';
}

/** Types of content that are steps before a reply, such as reasoning and output of tools. */
const STEPS = [
  'thoughts',
  'reasoning_recap',
  'execution_output',
  'system_error',
  'tether_browsing_display',
  'tether_quote',
];

function stepOf({ recipient }: Members, content: Members, metadata: Members): string {
  if (content.content_type === 'reasoning_recap') return '';
  const thoughts = list(content.thoughts).map(members);
  if (thoughts.length > 0) {
    return paragraphs(
      ...thoughts.map(({ summary, content: thought }) => paragraphs(text(summary), text(thought))),
    );
  }
  const said =
    text(content.text) || text(content.result) || text(content.summary) || textsIn(content, metadata);
  const isCode = content.content_type === 'code';
  const language = isCode ? languageOf(content) : '';
  const called = isCode && typeof recipient === 'string' && recipient !== 'all' ? recipient : '';
  return paragraphs(called, fenced(said, language));
}

function textOf(content: Members, metadata: Members): string {
  if (content.content_type === 'code') return fenced(text(content.text), languageOf(content));
  return plainText(content, metadata);
}

function languageOf({ language }: Members): string {
  return text(language).replace(/^unknown$|\W+/g, '');
}

/** The texts of the parts, for any type of content. */
function plainText(content: Members, metadata: Members): string {
  const parts = list(content.parts).map((part) =>
    typeof part === 'string' ? text(part) : partOf(members(part)),
  );
  return withoutMarks(paragraphs(...parts) || text(content.text), metadata);
}

/** The texts without images. Images that tools have made are added to the reply instead. */
function textsIn(content: Members, metadata: Members): string {
  const parts = list(content.parts).filter((part) => typeof part === 'string' || !isImage(members(part)));
  return plainText({ ...content, parts }, metadata);
}

function isImage(part: Members): boolean {
  return text(part.content_type).includes('image');
}

function partOf(part: Members): string {
  const kind = text(part.content_type);
  if (isImage(part)) return placeholder('image');
  if (typeof part.text === 'string') return text(part.text);
  return /audio|video/.test(kind) ? placeholder('audio') : '';
}

function imagesOf(content: Members): string {
  const parts = list(content.parts).map(members);
  return paragraphs(...parts.filter(isImage).map(partOf));
}

function attachments(metadata: Members): string[] {
  const files = list(metadata.attachments).map(members);
  const isPicture = (file: Members) => /^image\//.test(text(file.mime_type) || text(file.mimeType));
  return files.filter((file) => !isPicture(file)).map(({ name }) => placeholder('file', text(name)));
}

/**
 * Replaces references, which are marked with characters of the private use area, by the text for them in the metadata.
 */
function withoutMarks(marked: string, metadata: Members): string {
  if (!/[\uE200-\uE206]/.test(marked)) return marked;
  let shown = marked;
  for (const reference of list(metadata.content_references).map(members)) {
    const match = text(reference.matched_text);
    if (/^\uE200/.test(match)) shown = shown.replaceAll(match, () => text(reference.alt));
  }
  return shown.replace(/\uE200[^\uE200\uE201]*\uE201/g, '').replace(/[\uE200-\uE206]/g, '');
}

const ENDS: Readonly<Record<string, Members>> = {
  max_tokens: { status: 'incomplete', finish_reason: 'length' },
  interrupted: { status: 'cancelled', finish_reason: 'cancelled' },
};

function endOf({ status }: Members, metadata: Members): Members {
  const { type } = members(metadata.finish_details);
  const isRunning = status === 'in_progress';
  const end = isRunning ? { status: 'incomplete', finish_reason: 'error' } : ENDS[text(type)];
  return { ...modelOf(metadata.model_slug), ...(end ?? { status: 'complete', finish_reason: 'stop' }) };
}
