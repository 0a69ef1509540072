import { JSONParser } from '@streamparser/json';
import { addMessage, type Counter, type Counts, endingWith, noCounts } from './counts.ts';

const STRING_BUFFER = 64 * 1024;
const NEWLINE = 0x0a;

export const countJson: Counter = async (blocks) => {
  const counts = noCounts();
  const paths = ['$.conversations.*.messages.*', '$.conversations.*', '$.summary'];
  const parser = new JSONParser({ paths, stringBufferSize: STRING_BUFFER });
  let summary: object = {};
  parser.onValue = ({ value, key, parent, stack }) => {
    if (key === 'summary' && stack.length === 1) summary = { ...asObject(value) };
    else addValue(counts, value, stack.length === 4, parent);
  };
  for await (const block of blocks) parser.write(block);
  if (!parser.isEnded) throw new Error('unexpected end of file');
  checkSummary(summary, counts);
  return counts;
};

export const countNdjson: Counter = async (blocks) => {
  const counts = noCounts();
  const options = { paths: ['$.messages.*', '$'], separator: '\n', stringBufferSize: STRING_BUFFER };
  const parser = new JSONParser(options);
  let summary: object | undefined;
  parser.onValue = ({ value, parent, stack }) => {
    if (summary !== undefined) throw new Error('the summary is not the last line');
    if (stack.length < 2) summary = asObject(value).summary;
    if (summary === undefined) addValue(counts, value, stack.length === 2, parent);
  };
  let lines = 0;
  for await (const block of endingWith(blocks, '\n')) {
    for (let at = block.indexOf(NEWLINE); at >= 0; at = block.indexOf(NEWLINE, at + 1)) lines += 1;
    parser.write(block);
  }
  parser.end();
  // The parser accepts line breaks between tokens.
  if (lines !== counts.conversations + counts.deleted + (summary ? 1 : 0))
    throw new Error('a line is not one conversation');
  if (summary) checkSummary(summary, counts);
  return counts;
};

function checkSummary(summary: object, { conversations, messages }: Counts): void {
  for (const [name, count] of Object.entries({ conversations, messages })) {
    if (Reflect.get(summary, name) !== count) throw new Error(`the summary does not count ${count} ${name}`);
  }
}

/** Removes the value from its array, so that memory does not grow with the file. */
function addValue(counts: Counts, value: unknown, isMessage: boolean, parent: unknown): void {
  if (Array.isArray(parent)) parent.length = 0;
  const { id, messages, deleted } = asObject(value);
  if (isMessage) {
    if (typeof id !== 'string') throw new Error('a message has no id');
    addMessage(counts, id);
  } else if (deleted === true) counts.deleted += 1;
  else if (Array.isArray(messages)) counts.conversations += 1;
  else throw new Error('a conversation has no messages and was not deleted');
}

function asObject(value: unknown): { id?: unknown; messages?: unknown; deleted?: unknown; summary?: object } {
  if (typeof value !== 'object' || value === null)
    throw new Error('a conversation or message is not an object');
  return value;
}
