/** Server-sent events as text. JSON never holds a raw newline, so one `data:` line is always enough. */

/** `: ping`, which every client passes over. */
export const PING = ': ping\n\n';

/** The longest content of one event, UTF-16 units: a replayed reply of megabytes must not be one write. */
const MAX_CONTENT = 64 * 1024;

/** @param id the stream's id; offsets count UTF-16 units of output */
export function startEvent(id: string, offset: number, retryMs: number, data: object): string {
  return `retry: ${retryMs}\nevent: start\nid: ${id}:${offset}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** A piece of the reply. `offset` is where the output stands after it. */
export function contentEvent(id: string, offset: number, content: string): string {
  return `id: ${id}:${offset}\ndata: {"content":${JSON.stringify(content)}}\n\n`;
}

/**
 * The last event, `done` or `error`.
 * @param retryMs when it is worth connecting again
 */
export function endEvent(
  id: string,
  offset: number,
  event: 'done' | 'error',
  data: object,
  retryMs?: number,
): string {
  const retry = retryMs === undefined ? '' : `retry: ${retryMs}\n`;
  return `${retry}event: ${event}\nid: ${id}:${offset}:end\ndata: ${JSON.stringify(data)}\n\n`;
}

/** What a reader has of a stream, by the id of the last event it got. */
export interface ReadPosition {
  /** UTF-16 units of output. */
  readonly offset: number;
  /** Whether it got the last event. */
  readonly ended: boolean;
}

/** Undefined when `text` is no event id of the stream. */
export function readPosition(streamId: string, text: string): ReadPosition | undefined {
  const [, id, digits, end] = /^([\da-f-]{36}):(\d{1,10})(:end)?$/i.exec(text) ?? [];
  if (id?.toLowerCase() !== streamId) return undefined;
  return { offset: Number(digits), ended: end !== undefined };
}

/** One chunk of HTTP/1.1's chunked coding; the empty string is the end of the body. */
export function httpChunk(text: string): string {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
}

/** Cuts output into pieces of at most `size` units for events, never inside a surrogate pair. */
export function* contentPieces(output: string, size = MAX_CONTENT): Generator<string> {
  let from = 0;
  while (output.length - from > size) {
    const last = output.charCodeAt(from + size - 1);
    const cut = from + size - (last >= 0xd800 && last <= 0xdbff ? 1 : 0);
    yield output.slice(from, cut);
    from = cut;
  }
  if (from < output.length) yield output.slice(from);
}

/** A reply from the cache is there at once, but readers that show it as it comes are used to pieces. */
const REPLAY_PIECES = 64;
const REPLAY_PIECE_MIN = 32;

/** The size of the pieces in which a whole reply of `length` units is replayed. */
export function replayPieceSize(length: number): number {
  return Math.min(MAX_CONTENT, Math.max(REPLAY_PIECE_MIN, Math.ceil(length / REPLAY_PIECES)));
}
