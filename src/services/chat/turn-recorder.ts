import type { Instant, Message, ReplyFormat } from '../../domain/conversation.ts';
import { AppError, conversationNotFound } from '../../domain/errors.ts';
import type { Retention } from '../../domain/retention.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import type { KeyClaim, TurnStart, TurnWrite, TurnWriter, WriteOutcome } from '../../domain/turns.ts';
import type { Checkpoints } from './checkpoints.ts';
import { FailedWriteQueue } from './failed-write-queue.ts';
import { type Reply, storedEnd } from './reply.ts';
import type { ReplyStream, TurnResult } from './turn.ts';

/** A question with the ids that it and its reply will have. */
export interface Question {
  readonly conversationId: string;
  /** Whoever asked; null: somebody to whom everything is open, in a conversation that may be another's. */
  readonly owner: string | null;
  /** The uid of the user message. */
  readonly questionId: string;
  readonly messageId: string;
  readonly model: string;
  readonly format: ReplyFormat;
  /** Undefined: the user message is stored already, and only its reply is made anew. */
  readonly start: TurnStart | undefined;
  readonly key: KeyClaim | undefined;
}

interface KeeperParts {
  readonly writer: TurnWriter;
  readonly checkpoints: Checkpoints;
  readonly worker: string;
  readonly clock: Clock;
  readonly log: Log;
}

/** Stores turns, and knows those that are under way in this process. */
export class TurnRecorder {
  readonly #parts: KeeperParts;
  readonly #retention: Retention;
  readonly #failedWrites: FailedWriteQueue;
  readonly #open = new Map<string, ReplyStream>();

  constructor(parts: KeeperParts, retention: Retention) {
    this.#parts = parts;
    this.#failedWrites = new FailedWriteQueue(parts.writer, parts.log);
    this.#retention = retention;
  }

  /**
   * Stores the question together with the row that its reply will grow in.
   * @throws AppError `conversation_not_found` when the conversation is somebody else's, `database_unavailable`
   */
  async recordStart(question: Question): Promise<WriteOutcome> {
    const { clock, worker, writer } = this.#parts;
    const { start, key } = question;
    const reply = emptyReply(question, clock.now());
    const outcome = await writer.write({ ...(start && { start }), ...(key && { key }), reply, worker });
    if (outcome === 'foreign') throw conversationNotFound();
    return outcome;
  }

  /**
   * Sees to the end of a turn.
   * @param started of {@link recordStart}; undefined: everything is stored at once when the reply has ended
   */
  track(question: Question, reply: Reply, started: Promise<void> | undefined): ReplyStream {
    const result = started
      ? this.#afterStart(question, reply, started)
      : reply.ended.then(() => this.#recordEnd(question, reply, true));
    const { conversationId, owner, messageId, model, format } = question;
    const stream: ReplyStream = {
      conversationId,
      owner,
      messageId,
      model,
      format,
      reply,
      started: withoutUnhandledRejection(started ?? result.then(() => {})),
      result: withoutUnhandledRejection(result),
      release() {},
    };
    this.#open.set(messageId, stream);
    const close = () => void this.#open.delete(messageId);
    result.then(close, close);
    return stream;
  }

  /** A question that is stored gets no reply: there is none to be had. */
  async recordFailure(question: Question): Promise<void> {
    const message = { ...emptyReply(question, this.#parts.clock.now()), ...BROKEN };
    await this.#write(message, { reply: message });
  }

  /** A turn whose reply is being made or saved in this process. */
  find(messageId: string): ReplyStream | undefined {
    return this.#open.get(messageId);
  }

  /** The conversation was deleted: nobody needs the replies that are being made for it. */
  dropConversation(conversationId: string): void {
    for (const { conversationId: id, reply } of this.#open.values()) {
      if (id === conversationId) reply.fail(deleted());
    }
  }

  /** Resolves when every turn that was begun has been saved or given up. */
  async idle(): Promise<void> {
    while (this.#open.size > 0)
      await Promise.allSettled([...this.#open.values()].map(({ result }) => result));
  }

  async #afterStart(question: Question, reply: Reply, started: Promise<void>): Promise<TurnResult> {
    try {
      await started;
    } catch (error) {
      // A question that cannot be stored gets no reply.
      reply.fail(error instanceof AppError ? error : new AppError('internal', undefined, { cause: error }));
      throw error;
    }
    this.#parts.checkpoints.follow(question.messageId, reply);
    await reply.ended;
    return this.#recordEnd(question, reply, false);
  }

  async #recordEnd(question: Question, reply: Reply, whole: boolean): Promise<TurnResult> {
    const { end } = reply;
    if (!end) throw new AppError('internal', undefined, { cause: 'a running reply was to be stored' });
    const outcome = end.kind === 'whole' ? end.outcome : undefined;
    const activeAt = this.#parts.clock.now();
    const message: Message = {
      ...emptyReply(question, activeAt),
      ...storedEnd(end),
      content: reply.text,
      model: outcome?.model ?? question.model,
      usage: outcome?.usage ?? null,
    };
    const { start, key } = question;
    const first = whole ? { ...(start && { start }), ...(key && { key }) } : {};
    const written = await this.#write(message, { ...first, reply: message, activeAt });
    if (end.kind === 'broken') throw end.error;
    return {
      content: message.content,
      finishReason: written === 'stopped' ? 'cancelled' : (message.finishReason ?? 'error'),
      usage: message.usage,
      model: message.model ?? question.model,
      persisted: written !== 'journalled',
      expiresAt: this.#retention.expiresAt(activeAt),
    };
  }

  /** @throws AppError `conversation_not_found` when it was deleted or is somebody else's, `database_unavailable` */
  async #write(reply: Message, unit: TurnWrite): Promise<WriteOutcome> {
    const fields = { conversation_id: reply.conversationId, message_id: reply.uid };
    let outcome: WriteOutcome;
    try {
      outcome = await this.#parts.writer.write(unit);
    } catch (error) {
      this.#parts.log.error({ err: error, ...fields }, 'a reply could not be saved');
      // Its row is there already, and must not say for ever that the reply is being written.
      if (!unit.start) this.#failedWrites.add(reply.uid, unit);
      throw error;
    }
    if (outcome === 'gone') throw deleted();
    if (outcome === 'foreign') throw conversationNotFound();
    if (outcome === 'taken') throw new KeyInUseError();
    return outcome;
  }
}

/** Another request has the idempotency key. */
export class KeyInUseError extends Error {}

const BROKEN = { status: 'incomplete', finishReason: 'error' } as const;

function emptyReply(question: Question, timestamp: Instant): Message {
  const { messageId, conversationId, questionId, model, format } = question;
  return {
    uid: messageId,
    conversationId,
    role: 'assistant',
    content: '',
    timestamp,
    status: 'streaming',
    replyTo: questionId,
    model,
    finishReason: null,
    usage: null,
    format,
  };
}

function deleted(): AppError {
  return new AppError('conversation_not_found', 'The conversation was deleted');
}

/** The same promise, whose rejection does not end the process when nobody has asked for it yet. */
function withoutUnhandledRejection<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
