import { type Access, UNRESTRICTED } from '../../domain/access/access.ts';
import type { TurnStart, TurnWrite } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { isObject } from '../../util/json.ts';
import { isUsage } from '../core/codec.ts';

export interface EntryRow {
  readonly conversationId: string;
  readonly questionUid: string | null;
  readonly replyUid: string | null;
  readonly body: string;
  /** Length of `body` in UTF-8. */
  readonly bytes: number;
}

/** The conversation that a unit belongs to; undefined for an empty unit. */
export function conversationOf({ start, reply }: TurnWrite): string | undefined {
  return start?.conversationId ?? reply?.conversationId;
}

/** @throws Error when the unit is empty or cannot be written as JSON */
export function toEntry(unit: TurnWrite): EntryRow {
  const conversationId = conversationOf(unit);
  if (conversationId === undefined) throw new Error('a write without a message');
  const body = JSON.stringify(unit);
  return {
    conversationId,
    questionUid: unit.start?.message.uid ?? unit.reply?.replyTo ?? null,
    replyUid: unit.reply?.uid ?? null,
    body,
    bytes: Buffer.byteLength(body),
  };
}

/** The inverse of {@link toEntry}; null for any other text. */
export function toUnit(body: string): TurnWrite | null {
  try {
    const unit = upgraded(JSON.parse(body));
    return isUnit(unit) ? unit : null;
  } catch {
    return null;
  }
}

/**
 * Converts entries of earlier versions. They have no access, or `all` instead of `unrestricted`, and messages without
 * reasoning and details.
 */
function upgraded(unit: unknown): unknown {
  if (!isObject(unit)) return unit;
  const { start, reply } = unit;
  const whole = { ...unit, ...(isObject(reply) && { reply: upgradedMessage(reply) }) };
  if (!isObject(start)) return whole;
  const { by = UNRESTRICTED } = start;
  const access = isObject(by) && 'all' in by ? { unrestricted: by.all, owner: by.owner } : by;
  return { ...whole, start: { ...start, by: access, message: upgradedMessage(start.message) } };
}

function upgradedMessage(message: unknown): unknown {
  return isObject(message) ? { reasoning: null, details: null, ...message } : message;
}

function isUnit(value: unknown): value is TurnWrite {
  if (!isObject(value)) return false;
  const { start, reply, activeAt, expects } = value;
  if (start === undefined && reply === undefined) return false;
  if (activeAt !== undefined && typeof activeAt !== 'number') return false;
  if (expects !== undefined && typeof expects !== 'string') return false;
  return (start === undefined || isStart(start)) && (reply === undefined || isMessage(reply));
}

function isStart(value: unknown): value is TurnStart {
  return (
    isObject(value) &&
    typeof value.conversationId === 'string' &&
    typeof value.named === 'boolean' &&
    typeof value.expiredBefore === 'number' &&
    isAccess(value.by) &&
    isMessage(value.message) &&
    (value.earlier === undefined || (Array.isArray(value.earlier) && value.earlier.every(isMessage))) &&
    [value.user, value.answers, value.system].every(
      (text) => text === undefined || typeof text === 'string',
    ) &&
    (value.metadata === undefined || isObject(value.metadata))
  );
}

function isAccess(value: unknown): value is Access {
  return (
    isObject(value) &&
    typeof value.unrestricted === 'boolean' &&
    (value.owner === null || typeof value.owner === 'string')
  );
}

/** Checks types only, because the database checks the values. */
function isMessage(value: unknown): value is Message {
  if (!isObject(value)) return false;
  const text = [value.uid, value.conversationId, value.role, value.content, value.status];
  const optional = [value.replyTo, value.model, value.finishReason, value.format ?? null, value.reasoning];
  return (
    text.every((field) => typeof field === 'string') &&
    optional.every((field) => field === null || typeof field === 'string') &&
    typeof value.timestamp === 'number' &&
    (value.usage === null || isUsage(value.usage)) &&
    (value.details === null || isObject(value.details))
  );
}
