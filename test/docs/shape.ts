/**
 * Whether an answer has the shape that a document shows. Compared are members, types, the order of events, and every
 * value that cannot change from call to call: booleans, words such as `complete`, header values, status lines.
 * Free text, numbers, times and ids may differ.
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
/** Not free text: identifiers of the API. */
const WORD = /^(?:[a-z]+(?:_[a-z]+)*|\/problems\/[a-z-]+)$/;

/** Members whose text is free even where it is one word. */
const FREE = /\.(?:content|response|message|detail|error|title)$/;

function masked(text: string): string {
  return MASKS.reduce((result, [pattern, mask]) => result.replace(pattern, mask), text);
}

/** One line per difference; empty when the answer is as shown. */
export function differences(shown: Block, answer: string): string[] {
  if (shown.language === 'json') return compareJson('$', JSON.parse(shown.text), parsed(answer));
  const [expected, actual] = [split(shown.text), split(answer)];
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
    return `what is no JSON: ${text.slice(0, 200)}`;
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

/** A document need not show every header field; those that it shows must be there, with that value. */
function compareHeads(expected: Head | undefined, actual: Head | undefined): string[] {
  if (!expected) return [];
  const found = [...expected.fields].flatMap(([name, value]) => {
    const other = actual?.fields.get(name);
    return other !== undefined && masked(other) === masked(value)
      ? []
      : [`${name}: ${value} is shown, came: ${other}`];
  });
  return expected.status === actual?.status
    ? found
    : [`${expected.status} is shown, came: ${actual?.status}`, ...found];
}

/** Events in a row that differ in their values only count as one. */
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
  if (a !== b) return [`these events are shown:\n${a}\nand these came:\n${b}`];
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
  const [shown, came] = [kindOf(expected), kindOf(actual)];
  if (shown !== came) return [`${path} is shown as ${shown}, came: ${JSON.stringify(actual)}`];
  if (isObject(expected) && isObject(actual)) return compareMembers(path, expected, actual);
  if (Array.isArray(expected) && Array.isArray(actual)) return compareItems(path, expected, actual);
  return fixed(path, expected) === fixed(path, actual)
    ? []
    : [`${path} is shown as ${JSON.stringify(expected)}, came: ${JSON.stringify(actual)}`];
}

/** What of a plain value must be equal. */
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
  const unshown = Object.keys(actual).filter((name) => !Object.hasOwn(expected, name));
  const common = Object.keys(expected).filter((name) => Object.hasOwn(actual, name));
  return [
    ...missing.map((name) => `${path}.${name} is shown and did not come`),
    ...unshown.map((name) => `${path}.${name} came and is not shown`),
    ...common.flatMap((name) => compareJson(`${path}.${name}`, expected[name], actual[name])),
  ];
}

function compareItems(path: string, expected: readonly unknown[], actual: readonly unknown[]): string[] {
  if (expected.length !== actual.length)
    return [`${path} shows ${expected.length} items, came: ${actual.length}`];
  return expected.flatMap((item, index) => compareJson(`${path}[${index}]`, item, actual[index]));
}
