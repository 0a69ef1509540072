/** Decides what the demo model replies: canned texts, reasoning, tool calls and descriptions of images. */
import { isObject } from '../../util/json.ts';
import { type Json, textOf } from '../reply/shapes.ts';
import { demoDescription, demoReasoning, demoReply, demoResults, type ShownImage } from './text.ts';

export interface DemoCall {
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; readonly arguments: string };
}

export interface DemoAnswer {
  readonly reasoning: string;
  readonly content: string;
  readonly calls: readonly DemoCall[];
}

const MAX_CALLS = 3;
const ASKS_TO_THINK = /\b(think|thinking|reason|reasoning)\b|思考|推理|想一想/i;
const ASKS_FOR_TOOL = /\btools?\b|工具/i;

/** @param body of the request */
export function demoAnswer(body: Json, messages: readonly unknown[]): DemoAnswer {
  const conversation = messages.filter((message) => textOf(message, 'role') !== 'system');
  const question = questionOf(conversation);
  const reasoning = thinks(body, question) ? demoReasoning(question) : '';
  const calls = callsFor(body, conversation, question);
  if (calls.length > 0) return { reasoning, content: '', calls };
  return { reasoning, content: contentFor(conversation, question), calls };
}

/** The text of a message, whose content may be a list of parts. */
export function contentOf(message: unknown): string {
  const content = isObject(message) ? message.content : undefined;
  if (!Array.isArray(content)) return textOf(message, 'content');
  return content.map((part: unknown) => textOf(part, 'text')).join('');
}

function contentFor(conversation: readonly unknown[], question: string): string {
  const results = trailingResults(conversation);
  if (results.length > 0) return demoResults(question, results);
  const images = imagesOf(conversation.at(-1));
  if (images.length > 0) return demoDescription(question, images);
  return demoReply(question, Math.max(0, conversation.length - 1));
}

function questionOf(conversation: readonly unknown[]): string {
  const asked = conversation.findLast((message) => textOf(message, 'role') === 'user');
  return contentOf(asked ?? conversation.at(-1));
}

function thinks({ reasoning_effort: effort }: Json, question: string): boolean {
  if (typeof effort === 'string') return effort !== 'none';
  return ASKS_TO_THINK.test(question);
}

function trailingResults(conversation: readonly unknown[]): string[] {
  const last = conversation.findLastIndex((message) => textOf(message, 'role') !== 'tool');
  return conversation.slice(last + 1).map(contentOf);
}

/**
 * Calls for the tools that the question or `tool_choice` asks for. None after tool results, which would repeat the
 * calls.
 */
function callsFor(body: Json, conversation: readonly unknown[], question: string): DemoCall[] {
  const tools = toolsOf(body);
  const { tool_choice: choice } = body;
  if (tools.length === 0 || choice === 'none') return [];
  if (textOf(conversation.at(-1), 'role') === 'tool') return [];
  const named = isObject(choice) ? textOf(choice.function, 'name') : '';
  const asked = tools.filter((tool) => (named === '' ? isNamed(tool, question) : tool.name === named));
  const isAsked = asked.length > 0 || choice === 'required' || ASKS_FOR_TOOL.test(question);
  if (!isAsked) return [];
  const called = asked.length > 0 ? asked : tools.slice(0, 1);
  const most = body.parallel_tool_calls === false ? 1 : MAX_CALLS;
  return called.slice(0, most).map(({ name, parameters }, index) => ({
    id: `call_demo_${conversation.length}_${index + 1}`,
    type: 'function',
    function: { name, arguments: JSON.stringify(argumentsFor(parameters, question)) },
  }));
}

interface Tool {
  readonly name: string;
  readonly parameters: unknown;
}

function toolsOf({ tools }: Json): Tool[] {
  const list: readonly unknown[] = Array.isArray(tools) ? tools : [];
  return list.flatMap((tool) => {
    const description = isObject(tool) && isObject(tool.function) ? tool.function : undefined;
    const name = textOf(description, 'name');
    return name === '' ? [] : [{ name, parameters: description?.parameters }];
  });
}

/** `get_weather` is named by "weather". */
function isNamed({ name }: Tool, question: string): boolean {
  const words = name.split(/[^a-zA-Z]+|(?<=[a-z])(?=[A-Z])/).filter((word) => word.length > 3);
  const text = question.toLowerCase();
  return [name, ...words].some((word) => text.includes(word.toLowerCase()));
}

function argumentsFor(parameters: unknown, question: string): Json {
  if (!isObject(parameters) || !isObject(parameters.properties)) return {};
  const all = Object.keys(parameters.properties);
  const required: readonly unknown[] = Array.isArray(parameters.required) ? parameters.required : all;
  const { properties } = parameters;
  return Object.fromEntries(
    all.filter((name) => required.includes(name)).map((name) => [name, valueFor(properties[name], question)]),
  );
}

/** A value that fits the JSON schema, where possible from the question. */
function valueFor(schema: unknown, question: string): unknown {
  if (!isObject(schema)) return null;
  for (const list of [schema.enum, schema.examples])
    if (Array.isArray(list) && list.length > 0) return list[0];
  if (schema.default !== undefined) return schema.default;
  switch (schema.type) {
    case 'number':
    case 'integer':
      return Number(/\d+/.exec(question)?.[0] ?? 1);
    case 'boolean':
      return true;
    case 'array':
      return [];
    case 'object':
      return argumentsFor(schema, question);
    default:
      return (
        /\b(?:in|for|at|of) (\p{Lu}[\p{L}-]*)/u.exec(question)?.[1] ??
        /(\p{Script=Han}{2,3})的/u.exec(question)?.[1] ??
        'demo'
      );
  }
}

function imagesOf(message: unknown): ShownImage[] {
  const content = isObject(message) ? message.content : undefined;
  const parts: readonly unknown[] = Array.isArray(content) ? content : [];
  return parts.flatMap((part) => {
    const url = isObject(part) ? textOf(part.image_url, 'url') : '';
    return url === '' ? [] : [imageOf(url)];
  });
}

function imageOf(url: string): ShownImage {
  const type = /^data:image\/([a-z]+);base64,/.exec(url)?.[1];
  if (type === undefined) return { type: 'link', bytes: 0 };
  return { type: type.toUpperCase(), bytes: Math.floor(((url.length - url.indexOf(',') - 1) * 3) / 4) };
}
