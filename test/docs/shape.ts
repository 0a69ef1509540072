/**
 * Compares a response with the one that a document shows: members, types, the order of events, and the values that do
 * not change from call to call (booleans, words such as `complete`, header values, status lines). Free text, numbers,
 * times and ids may differ.
 */
import type { Block } from './documents.ts';

interface Head {
  readonly status: string;
  readonly fields: ReadonlyMap<string, string>;
}

interface Event {
  readonly signature: string;
  readonly data: unknown;
}

const MASKS: readonly (readonly [RegExp, string])[] = [
  [/[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}/g, '<uuid>'],
  [/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, '<time>'],
  [/\d+/g, '<number>'],
];
/** Identifiers of the API, which must be equal. */
const WORD = /^(?:[a-z]+(?:_[a-z]+)*|\/problems\/[a-z-]+)$/;

/** Members whose text may differ even when it is a single word. */
const FREE = /\.(?:content|response|message|detail|error|title)$/;

function masked(text: string): string {
  return MASKS.reduce((result, [pattern, mask]) => result.replace(pattern, mask), text);
}

/** One line per difference; empty when the response matches. */
export function differences(shown: Block, response: string): string[] {
  if (shown.language === 'json') return compareJson('$', JSON.parse(shown.text), parsed(response));
  const [expected, actual] = [split(shown.text), split(response)];
  return [
    ...compareHeads(expected.head, actual.head),
    ...(/^[{[]/.test(expected.body)
      ? compareJson('$', JSON.parse(expected.body), parsed(actual.body))
      : compareEvents(eventsOf(expected.body), eventsOf(actual.body))),
  ];
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return `not JSON: ${text.slice(0, 200)}`;
  }
}

function split(text: string): { head: Head | undefined; body: string } {
  const plain = text.replaceAll('\r\n', '\n');
  if (!plain.startsWith('HTTP/')) return { head: undefined, body: plain.trim() };
  const end = plain.indexOf('\n\n');
  const lines = (end < 0 ? plain.trimEnd() : plain.slice(0, end)).split('\n');
  const fields = lines.slice(1).map((line): [string, string] => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  return {
    head: { status: lines[0] ?? '', fields: new Map(fields) },
    body: end < 0 ? '' : plain.slice(end).trim(),
  };
}

/** Header fields that the document omits are ignored; those that it shows must have the same value. */
function compareHeads(expected: Head | undefined, actual: Head | undefined): string[] {
  if (!expected) return [];
  const differing = [...expected.fields].flatMap(([name, value]) => {
    const other = actual?.fields.get(name);
    return other !== undefined && masked(other) === masked(value)
      ? []
      : [`${name}: expected ${value}, got ${other}`];
  });
  return expected.status === actual?.status
    ? differing
    : [`expected ${expected.status}, got ${actual?.status}`, ...differing];
}

/** Consecutive events with the same signature count as one. */
function eventsOf(body: string): Event[] {
  const events = body
    .split('\n\n')
    .map((block) => block.split('\n').filter((line) => line !== '' && !line.startsWith(':')))
    .filter((lines) => lines.length > 0)
    .map((lines): Event => {
      const data = lines.find((line) => line.startsWith('data: '))?.slice(6);
      const others = lines.map((line) => (line.startsWith('data: ') ? 'data' : masked(line)));
      return { signature: others.join(' | '), data: data === undefined ? undefined : parsed(data) };
    });
  return events.filter((event, index) => event.signature !== events[index - 1]?.signature);
}

function compareEvents(expected: readonly Event[], actual: readonly Event[]): string[] {
  const [a, b] = [expected, actual].map((events) => events.map((event) => event.signature).join('\n'));
  if (a !== b) return [`expected events:\n${a}\ngot:\n${b}`];
  return expected.flatMap((event, index) => compareJson(`event ${index}`, event.data, actual[index]?.data));
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return kindOf(value) === 'object';
}

function compareJson(path: string, expected: unknown, actual: unknown): string[] {
  const shown = kindOf(expected);
  if (shown !== kindOf(actual)) return [`${path}: expected ${shown}, got ${JSON.stringify(actual)}`];
  if (isObject(expected) && isObject(actual)) return compareMembers(path, expected, actual);
  if (Array.isArray(expected) && Array.isArray(actual)) return compareItems(path, expected, actual);
  return fixed(path, expected) === fixed(path, actual)
    ? []
    : [`${path}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`];
}

/** The part of a plain value that must be equal. */
function fixed(path: string, value: unknown): unknown {
  if (typeof value === 'number') return 'number';
  if (typeof value !== 'string') return value;
  if (FREE.test(path)) return 'text';
  if (WORD.test(value)) return value;
  const form = masked(value);
  return /^(?:<uuid>|<time>)$/.test(form) ? form : 'text';
}

function compareMembers(
  path: string,
  expected: Readonly<Record<string, unknown>>,
  actual: Readonly<Record<string, unknown>>,
): string[] {
  const missing = Object.keys(expected).filter((name) => !Object.hasOwn(actual, name));
  const undocumented = Object.keys(actual).filter((name) => !Object.hasOwn(expected, name));
  const common = Object.keys(expected).filter((name) => Object.hasOwn(actual, name));
  return [
    ...missing.map((name) => `${path}.${name} is missing`),
    ...undocumented.map((name) => `${path}.${name} is not documented`),
    ...common.flatMap((name) => compareJson(`${path}.${name}`, expected[name], actual[name])),
  ];
}

function compareItems(path: string, expected: readonly unknown[], actual: readonly unknown[]): string[] {
  if (expected.length !== actual.length)
    return [`${path}: expected ${expected.length} items, got ${actual.length}`];
  return expected.flatMap((item, index) => compareJson(`${path}[${index}]`, item, actual[index]));
}
