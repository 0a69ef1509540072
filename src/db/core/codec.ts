/** Converts rows to domain objects and back. */
import {
  type Conversation,
  type ConversationChanges,
  type ConversationSettings,
  type Feedback,
  FINISH_REASONS,
  type FinishReason,
  FORMATS,
  type Instant,
  type Message,
  type MessageDetails,
  type MessageStatus,
  RATINGS,
  ROLES,
  type Role,
  type SequencedMessage,
  STATUSES,
  type Usage,
} from '../../domain/conversations/conversation.ts';
import { positionOf } from './order.ts';
import type { ConversationRow, StoredConversation, StoredMessage, StoredSettings } from './tables.ts';

/** Both databases store the years 1000 to 9999, and they sort as text. */
const EARLIEST = Date.UTC(1000, 0, 1);
const LATEST = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
const DAY_MS = 86_400_000;
/** The day that was written last. `Date` takes 2 µs to write a time, and a turn writes several of the same day. */
let day = { number: Number.NaN, text: '' };

/**
 * Epoch milliseconds → `YYYY-MM-DD HH:mm:ss.SSS`, UTC, independent of the time zones of process and server. Times
 * outside the years 1000 to 9999 become the nearest bound, so that "always" and "never" compare correctly.
 * @throws RangeError for NaN
 */
export function toTime(instant: Instant): string {
  if (Number.isNaN(instant)) throw new RangeError('not a time');
  const time = Math.trunc(Math.min(Math.max(instant, EARLIEST), LATEST));
  const number = Math.floor(time / DAY_MS);
  const ms = time - number * DAY_MS;
  if (number !== day.number) day = { number, text: new Date(time).toISOString().slice(0, 10) };
  const [hours, minutes, seconds] = [
    Math.floor(ms / 3_600_000),
    Math.floor(ms / 60_000),
    Math.floor(ms / 1000),
  ];
  return `${day.text} ${padded(hours)}:${padded(minutes % 60)}:${padded(seconds % 60)}.${padded(ms % 1000, 3)}`;
}

function padded(value: number, digits = 2): string {
  return String(value).padStart(digits, '0');
}

/**
 * The inverse of {@link toTime}.
 * @throws RangeError for text of another shape
 */
export function fromTime(text: string): Instant {
  const instant = Date.UTC(
    digits(text, 0, 4),
    digits(text, 5, 7) - 1,
    digits(text, 8, 10),
    digits(text, 11, 13),
    digits(text, 14, 16),
    digits(text, 17, 19),
    digits(text, 20, 23),
  );
  if (Number.isNaN(instant) || text.length !== 23) throw new RangeError('not a time of this database');
  return instant;
}

/** Twice as fast as Number() of a slice. NaN where a digit is missing. */
function digits(text: string, from: number, to: number): number {
  let value = 0;
  for (let index = from; index < to; index++) {
    const digit = text.charCodeAt(index) - 48;
    value = digit >= 0 && digit <= 9 ? value * 10 + digit : Number.NaN;
  }
  return value;
}

function oneOf<T extends string>(allowed: readonly T[], text: string, column: string): T {
  const value = allowed.find((candidate) => candidate === text);
  if (value === undefined) throw new Error(`unknown ${column} in the database`);
  return value;
}

export function toUsage(json: string | null): Usage | null {
  if (json === null) return null;
  const value: unknown = JSON.parse(json);
  return isUsage(value) ? value : null;
}

/** Written by this program only. */
export function toDetails(json: string | null): MessageDetails | null {
  return json === null ? null : JSON.parse(json);
}

export function toFeedback(rating: string | null, comment: string | null): Feedback | null {
  return rating === null ? null : { rating: oneOf(RATINGS, rating, 'rating'), comment };
}

export function isUsage(value: unknown): value is Usage {
  if (typeof value !== 'object' || value === null) return false;
  const { prompt_tokens, completion_tokens, total_tokens } = { ...value } as Partial<Usage>;
  return [prompt_tokens, completion_tokens, total_tokens].every((count) => typeof count === 'number');
}

export function toConversation(row: StoredConversation): Conversation {
  return {
    id: row.id,
    owner: row.owner,
    createdAt: fromTime(row.created_at),
    lastActive: fromTime(row.last_active),
    pinned: row.pinned === 1,
  };
}

export function toSettings(row: StoredSettings): ConversationSettings {
  const json = (text: string | null) => (text === null ? null : JSON.parse(text));
  return {
    title: row.title,
    user: row.user_id,
    metadata: json(row.metadata),
    system: row.system_prompt,
    model: row.default_model,
    parameters: json(row.parameters),
  };
}

/** The columns that change. */
export function fromChanges(changes: ConversationChanges): Partial<ConversationRow> {
  const { pinned, title, user, metadata, system, model, parameters } = changes;
  const json = (value: object | null) => value && JSON.stringify(value);
  return {
    ...(pinned !== undefined && { pinned: pinned ? 1 : 0 }),
    ...(title !== undefined && { title }),
    ...(user !== undefined && { user_id: user }),
    ...(metadata !== undefined && { metadata: json(metadata) }),
    ...(system !== undefined && { system_prompt: system }),
    ...(model !== undefined && { default_model: model }),
    ...(parameters !== undefined && { parameters: json(parameters) }),
  };
}

export function toRole(text: string): Role {
  return oneOf(ROLES, text, 'role');
}

export function toStatus(text: string): MessageStatus {
  return oneOf(STATUSES, text, 'status');
}

export function toFinishReason(text: string | null): FinishReason | null {
  return text === null ? null : oneOf(FINISH_REASONS, text, 'finish_reason');
}

export function toMessage(row: StoredMessage): SequencedMessage {
  return {
    seq: positionOf(row),
    uid: row.uid,
    conversationId: row.conversation_id,
    role: toRole(row.role),
    content: row.content,
    timestamp: fromTime(row.timestamp),
    status: toStatus(row.status),
    replyTo: row.reply_to,
    model: row.model,
    finishReason: toFinishReason(row.finish_reason),
    usage: toUsage(row.usage),
    format: row.format === null ? null : oneOf(FORMATS, row.format, 'format'),
    reasoning: row.reasoning,
    details: toDetails(row.details),
  };
}

export const MESSAGE_INSERT_COLUMNS =
  'uid, conversation_id, role, content, timestamp, status, reply_to, model, finish_reason, `usage`, updated_at, length, worker, format, reasoning, reasoning_length, details';

/**
 * The bindings of {@link MESSAGE_INSERT_COLUMNS}. An array, because this is the hot path.
 * @param time its timestamp by {@link toTime}
 * @param written the time of the write, which can be much later
 * @param worker the process that continues the reply; null when it has ended
 */
export function fromMessage(
  message: Message,
  time: string,
  written: string,
  worker: string | null,
): (string | number | null)[] {
  return [
    message.uid,
    message.conversationId,
    message.role,
    message.content,
    time,
    message.status,
    message.replyTo,
    fromModel(message.model),
    message.finishReason,
    fromUsage(message.usage),
    written,
    message.content.length,
    worker,
    message.format,
    message.reasoning,
    message.reasoning?.length ?? null,
    fromDetails(message.details),
  ];
}

const MODEL_LENGTH = 255;

/** Truncates, so that a long name does not fail the write. */
export function fromModel(model: string | null): string | null {
  return model?.slice(0, MODEL_LENGTH) ?? null;
}

export function fromDetails(details: MessageDetails | null): string | null {
  return details && JSON.stringify(details);
}

export function fromUsage(usage: Usage | null): string | null {
  return usage && JSON.stringify(usage);
}
