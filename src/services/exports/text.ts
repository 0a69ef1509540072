import type { ExportMessage, ExportPart, ExportPosition } from '../../domain/exports.ts';
import type { ExportEncoder } from './encoders.ts';

export interface RunningCounts {
  conversations: number;
  messages: number;
}

export interface ExportText {
  readonly text: string;
  /** Where to go on after everything up to here; null in the midst of a conversation. */
  readonly position: ExportPosition | null;
}

const CHUNK_CHARS = 64 * 1024;
/** Messages and characters of contents that are turned into text in one go: about a millisecond. */
const SLICE = 100;
const SLICE_CHARS = 64 * 1024;

/**
 * What comes between opening and closing, in pieces that are neither tiny nor large. Counts as it goes.
 * @param begins whether nothing was told before the first conversation
 */
export async function* exportText(
  pages: AsyncIterable<readonly ExportPart[]>,
  encoder: ExportEncoder,
  counts: RunningCounts,
  begins: boolean,
): AsyncGenerator<ExportText> {
  for await (const parts of pages) {
    let text = '';
    for (const piece of encoded(encoder, parts, counts, begins)) {
      text += piece;
      if (text.length < CHUNK_CHARS) continue;
      yield { text, position: null };
      text = '';
      // A connection that takes everything at once would otherwise never let others have their turn.
      await new Promise(setImmediate);
    }
    const last = parts.at(-1);
    const position = last?.ends ? last.conversation : null;
    if (text !== '' || position) yield { text, position };
  }
}

/** The encoder holds nothing back after the last piece. @param begins as for {@link exportText} */
export function* encoded(
  encoder: ExportEncoder,
  parts: readonly ExportPart[],
  counts: RunningCounts,
  begins: boolean,
): Generator<string> {
  for (const { conversation, messages, begins: opens, ends } of parts) {
    if (opens) yield encoder.begin(conversation, begins && counts.conversations === 0);
    if (opens) counts.conversations += 1;
    let first = opens;
    for (const slice of slices(messages)) {
      yield encoder.messages(conversation, slice, first);
      first = false;
      counts.messages += slice.length;
    }
    if (ends) yield encoder.end(conversation, first);
  }
  yield encoder.rest();
}

function* slices(messages: readonly ExportMessage[]): Generator<readonly ExportMessage[]> {
  let from = 0;
  let size = 0;
  for (const [index, { content }] of messages.entries()) {
    size += content.length;
    if (size < SLICE_CHARS && index + 1 - from < SLICE) continue;
    yield messages.slice(from, index + 1);
    from = index + 1;
    size = 0;
  }
  if (from < messages.length) yield messages.slice(from);
}
