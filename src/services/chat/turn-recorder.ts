import type { TurnWrite, TurnWriter, WriteOutcome } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import {
  AppError,
  conversationBusy,
  conversationNotFound,
  messageNotFound,
  messageSuperseded,
  userMismatch,
} from '../../domain/errors.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import type { Checkpoints } from './checkpoints.ts';
import { FailedWriteQueue } from './failed-write-queue.ts';
import type { OpenedGeneration } from './generations.ts';
import { Reply, storedEnd } from './reply.ts';
import { metadataFull, nothingToAnswer } from './request/turn-preparation.ts';
import type { TurnTimes } from './timing/turn-times.ts';
import {
  conversationDeleted,
  replyRemoved,
  type Turn,
  type TurnResult,
  withoutUnhandledRejection,
} from './turn.ts';

/** A turn to be stored. Its reply is empty; it has no user message when that is stored already. */
export interface NewTurn extends Pick<TurnWrite, 'start' | 'revision' | 'key' | 'expects'> {
  readonly reply: Message & { readonly model: string };
  /** As {@link Turn.owner}. */
  readonly owner: string | null;
  /** Whether its conversation was pinned when the turn began. */
  readonly pinned: boolean;
  readonly times: TurnTimes;
}

interface RecorderParts {
  readonly writer: TurnWriter;
  readonly checkpoints: Checkpoints;
  readonly worker: string;
  readonly clock: Clock;
  readonly log: Log;
}

/** Stores turns, and keeps a list of those that run in this process. */
export class TurnRecorder {
  readonly #writer: TurnWriter;
  readonly #checkpoints: Checkpoints;
  readonly #worker: string;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #retention: Retention;
  readonly #failedWrites: FailedWriteQueue;
  readonly #running = new Map<string, Turn>();

  constructor({ writer, checkpoints, worker, clock, log }: RecorderParts, retention: Retention) {
    this.#writer = writer;
    this.#checkpoints = checkpoints;
    this.#worker = worker;
    this.#clock = clock;
    this.#log = log;
    this.#retention = retention;
    this.#failedWrites = new FailedWriteQueue(writer, log);
  }

  /**
   * Stores the user message and the row of its reply.
   * @throws AppError `conversation_not_found` when another owner has the conversation, `database_unavailable`; for a
   * regenerated reply or an edited question also `message_not_found`, `message_superseded`, `conversation_busy`
   */
  async recordStart(turn: NewTurn): Promise<WriteOutcome> {
    const outcome = await this.#writer.write({ ...startOf(turn), reply: turn.reply, worker: this.#worker });
    if (outcome === 'gone' && (turn.revision || turn.start?.answers)) throw conversationNotFound();
    throwRefusal(outcome);
    return outcome;
  }

  /**
   * Stores the reply while it grows and at its end.
   * @param started the promise of {@link recordStart}; when it rejects, the reply is aborted
   */
  track(turn: NewTurn, opened: OpenedGeneration, started: Promise<unknown>): Turn {
    const reply = new Reply(opened.generation);
    return this.#add(turn, reply, opened, started, this.#recordAfterStart(turn, reply, started));
  }

  /** Stores user message and reply in one write when the reply has ended. */
  trackInOneWrite(turn: NewTurn, opened: OpenedGeneration): Turn {
    const reply = new Reply(opened.generation);
    const result = reply.ended.then(() => this.#recordEnd(turn, reply, startOf(turn)));
    // The error of the reply itself comes after the write.
    const started = result.catch((error) => {
      if (error !== reply.end) throw error;
    });
    return this.#add(turn, reply, opened, started, result);
  }

  /** Lists the turn as running until its end, and stores nothing. */
  trackUnstored(turn: NewTurn, opened: OpenedGeneration): Turn {
    const reply = new Reply(opened.generation);
    const result = reply.ended.then(() => this.#recordEnd(turn, reply, undefined));
    return { ...this.#add(turn, reply, opened, Promise.resolve(), result), isStored: false };
  }

  /** Stores a failed reply for a turn whose start is stored, but whose generation could not begin. */
  async recordFailure({ reply }: NewTurn): Promise<void> {
    const failed: Message = { ...reply, status: 'incomplete', finishReason: 'error' };
    await this.#write(failed, { reply: failed, activeAt: this.#clock.now() });
  }

  /** A turn whose reply is generated or saved in this process. */
  find(messageId: string): Turn | undefined {
    return this.#running.get(messageId);
  }

  /** Aborts the replies of a deleted conversation. */
  dropConversation(conversationId: string): void {
    for (const { conversationId: id, reply } of this.#running.values()) {
      if (id === conversationId) reply.fail(conversationDeleted());
    }
  }

  /** Resolves when every turn has been saved or has failed. */
  async idle(): Promise<void> {
    while (this.#running.size > 0)
      await Promise.allSettled([...this.#running.values()].map(({ result }) => result));
  }

  #add(
    { owner, times, reply: { conversationId, uid, replyTo, model, format, details } }: NewTurn,
    reply: Reply,
    { cache }: OpenedGeneration,
    started: Promise<unknown>,
    result: Promise<TurnResult>,
  ): Turn {
    const turn: Turn = {
      conversationId,
      owner,
      messageId: uid,
      questionId: replyTo,
      model,
      format: format ?? 'markdown',
      wantsReasoning: details?.wants_reasoning ?? false,
      reply,
      started: withoutUnhandledRejection(started),
      result: withoutUnhandledRejection(result),
      cache,
      times,
      cached: cache.kind === 'hit',
      isStored: true,
      replayed: false,
      release() {},
    };
    this.#running.set(uid, turn);
    const remove = () => void this.#running.delete(uid);
    result.then(remove, remove);
    return turn;
  }

  async #recordAfterStart(turn: NewTurn, reply: Reply, started: Promise<unknown>): Promise<TurnResult> {
    try {
      await started;
    } catch (error) {
      reply.fail(error instanceof AppError ? error : new AppError('internal', undefined, { cause: error }));
      throw error;
    }
    turn.times.started();
    this.#checkpoints.follow(turn.reply, reply);
    await reply.ended;
    return this.#recordEnd(turn, reply, { worker: this.#worker });
  }

  /**
   * @param start members of the write besides the reply: the start of the turn, or the worker if the start is stored;
   * undefined stores nothing
   */
  async #recordEnd(turn: NewTurn, reply: Reply, start: TurnWrite | undefined): Promise<TurnResult> {
    turn.times.replyEnded();
    const { end } = reply;
    if (!end) throw new AppError('internal', undefined, { cause: 'the reply is still running' });
    const { model, usage, toolCalls, refusal } =
      end === 'stopped' || end instanceof AppError ? NO_OUTCOME : end;
    const activeAt = this.#clock.now();
    const message = {
      ...turn.reply,
      ...storedEnd(end),
      timestamp: activeAt,
      content: reply.text,
      reasoning: reply.reasoning,
      model: model ?? turn.reply.model,
      usage,
      details:
        toolCalls || refusal
          ? {
              ...turn.reply.details,
              ...(toolCalls && { tool_calls: toolCalls }),
              ...(refusal && { refusal }),
            }
          : turn.reply.details,
    };
    const written = start ? await this.#write(message, { ...start, reply: message, activeAt }) : 'saved';
    turn.times.stored();
    if (end instanceof AppError) throw end;
    const stopped = written === 'stopped';
    return {
      content: message.content,
      reasoning: message.reasoning,
      finishReason: stopped ? 'cancelled' : message.finishReason,
      toolCalls: stopped ? undefined : toolCalls,
      refusal,
      usage,
      model: message.model,
      persisted: written !== 'journalled',
      expiresAt: this.#retention.expiresAt({ lastActive: activeAt, pinned: turn.pinned }),
    };
  }

  /**
   * @throws AppError `conversation_not_found` when it was deleted or is foreign, `reply_incomplete` when the reply was
   * replaced, `database_unavailable`
   */
  async #write(reply: Message, unit: TurnWrite): Promise<WriteOutcome> {
    const fields = { conversation_id: reply.conversationId, message_id: reply.uid };
    let outcome: WriteOutcome;
    try {
      outcome = await this.#writer.write(unit);
    } catch (error) {
      this.#log.error({ err: error, ...fields }, 'reply not saved');
      // Its row exists and must not stay `streaming`.
      if (!unit.start) this.#failedWrites.add(reply.uid, unit);
      throw error;
    }
    if (outcome === 'gone') throw conversationDeleted();
    if (outcome === 'replaced') throw replyRemoved();
    if (outcome === 'taken') throw new KeyInUseError();
    throwRefusal(outcome);
    return outcome;
  }
}

/** @throws AppError for an outcome that means that nothing was written */
function throwRefusal(outcome: WriteOutcome): void {
  if (outcome === 'foreign') throw conversationNotFound();
  if (outcome === 'missing') throw messageNotFound();
  if (outcome === 'superseded') throw messageSuperseded();
  if (outcome === 'busy') throw conversationBusy();
  if (outcome === 'answered') throw nothingToAnswer();
  if (outcome === 'other_user') throw userMismatch();
  if (outcome === 'metadata_full') throw metadataFull();
}

/** Another request has the idempotency key. */
export class KeyInUseError extends Error {}

const NO_OUTCOME = { model: undefined, usage: null, toolCalls: undefined, refusal: undefined };

function startOf({ start, revision, key, expects }: NewTurn): TurnWrite {
  return {
    ...(start && { start }),
    ...(revision && { revision }),
    ...(key && { key }),
    ...(expects !== undefined && { expects }),
  };
}
