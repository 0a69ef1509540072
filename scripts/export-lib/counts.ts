/** Counts of a file's contents, under the names that the manifest has. */
export interface Counts {
  conversations: number;
  messages: number;
  deleted: number;
  first_message_id: string | null;
  last_message_id: string | null;
}

export function noCounts(): Counts {
  return { conversations: 0, messages: 0, deleted: 0, first_message_id: null, last_message_id: null };
}

export function addMessage(counts: Counts, id: string): void {
  counts.messages += 1;
  counts.first_message_id ??= id;
  counts.last_message_id = id;
}

/** Counts the contents of a file. Rejects when the text is malformed. */
export type Counter = (blocks: AsyncIterable<Buffer>) => Promise<Counts>;

/** Passes the blocks on unchanged. @throws Error when the last one does not end with `end` */
export async function* endingWith(blocks: AsyncIterable<Buffer>, end: string): AsyncGenerator<Buffer> {
  let tail = '';
  for await (const block of blocks) {
    tail = (tail + block.toString('latin1', Math.max(0, block.length - end.length))).slice(-end.length);
    yield block;
  }
  if (tail !== end) throw new Error('the last line is incomplete');
}
