/** Server-sent events as text. JSON contains no raw newline, so one `data:` line is enough for each event. */

import type { Turn } from '../../services/chat/turn.ts';
import { lineJson } from '../../util/line-json.ts';
import { turnHeaders } from '../response/presenters.ts';

/** The header fields of an event stream. */
export const EVENT_STREAM_HEADERS = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'no-cache, no-transform',
  'X-Accel-Buffering': 'no',
} as const;

/** The header fields of the stream of a turn. */
export function streamHeaders(turn: Turn): Record<string, string> {
  return { ...EVENT_STREAM_HEADERS, ...turnHeaders(turn) };
}

/** A comment, which clients ignore. */
export const PING = ': ping\n\n';

/** The maximum content of one event, UTF-16 units. */
export const MAX_CONTENT = 64 * 1024;

/** Writes parts of a reply as events. */
export interface ReplyEvents {
  /** @param offset the length of the output after this piece */
  content(piece: string, offset: number): string;
  reasoning(piece: string): string;
}

/** @param id the stream's id; offsets count UTF-16 units of output */
export function startEvent(id: string, offset: number, retryMs: number, data: object): string {
  return `retry: ${retryMs}\nevent: start\nid: ${id}:${offset}\ndata: ${lineJson(data)}\n\n`;
}

/** @param offset the length of the output after this piece */
export function contentEvent(id: string, offset: number, content: string): string {
  return `id: ${id}:${offset}\ndata: {"content":${lineJson(content)}}\n\n`;
}

/** Without an id: offsets count the content only. */
export function reasoningEvent(reasoning: string): string {
  return `event: reasoning\ndata: {"content":"","reasoning":${lineJson(reasoning)}}\n\n`;
}

/**
 * The last event.
 * @param retryMs when the client may reconnect; undefined where it need not
 */
export function endEvent(
  id: string,
  offset: number,
  event: 'done' | 'error',
  data: object,
  retryMs?: number,
): string {
  const retry = retryMs === undefined ? '' : `retry: ${retryMs}\n`;
  return `${retry}event: ${event}\nid: ${id}:${offset}:end\ndata: ${lineJson(data)}\n\n`;
}

/** The position of a reader, from the id of the last event that it received. */
export interface ReadPosition {
  /** UTF-16 units of output. */
  readonly offset: number;
  /** Whether it received the last event. */
  readonly ended: boolean;
}

/** @returns undefined when `eventId` belongs to no event of the stream */
export function readPosition(streamId: string, eventId: string): ReadPosition | undefined {
  const [, id, digits, end] = /^([\da-f-]{36}):(\d{1,10})(:end)?$/i.exec(eventId) ?? [];
  if (id?.toLowerCase() !== streamId) return undefined;
  return { offset: Number(digits), ended: end !== undefined };
}

/** A replayed reply is available immediately, but clients expect it in pieces. */
const REPLAY_PIECES = 64;
const REPLAY_PIECE_MIN = 32;

/** The piece size for replaying a reply of `length` units. */
export function replayPieceSize(length: number): number {
  return Math.min(MAX_CONTENT, Math.max(REPLAY_PIECE_MIN, Math.ceil(length / REPLAY_PIECES)));
}
