import type {
  PendingTurns,
  ReplyStore,
  ReplyTail,
  StoredReply,
  TailPosition,
} from '../../domain/chat/turns.ts';
import type { Conversation, Message } from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { AppError } from '../../domain/errors.ts';
import type { Log } from '../../domain/runtime.ts';
import { pause } from '../../util/timers.ts';
import { Generation } from './generation.ts';
import { Reply } from './reply.ts';
import { missingReply, type Turn, type TurnResult, withoutUnhandledRejection } from './turn.ts';

/** Poll interval while a reply of another process grows. After polls without new text it increases. */
const POLL_MS = 200;
const MAX_POLL_MS = 1000;

interface Followed {
  readonly turn: Turn;
  readers: number;
}

interface StoredParts {
  readonly replies: Pick<ReplyStore, 'find' | 'tail' | 'noteFollowed' | 'wasRemovedAlone'>;
  readonly pending: Pick<PendingTurns, 'reply'>;
  readonly log: Log;
}

/** Opens replies that are stored, or that another process generates, as turns. */
export class StoredStreams {
  readonly #replies: StoredParts['replies'];
  readonly #pending: StoredParts['pending'];
  readonly #log: Log;
  readonly #retention: Retention;
  /** Replies that another process writes; all readers in this process share one poll. */
  readonly #followed = new Map<string, Followed>();

  constructor({ replies, pending, log }: StoredParts, retention: Retention) {
    this.#replies = replies;
    this.#pending = pending;
    this.#log = log;
    this.#retention = retention;
  }

  /** @param persisted false if the reply is only in the journal */
  open({ message, conversation, settling }: StoredReply, persisted = true): Turn {
    if (message.status === 'streaming' || settling) return this.#follow(message, conversation);
    const generation = endedGeneration(message);
    const result = this.#result(generation, conversation, persisted);
    return toTurn(message, conversation.owner, generation, result, () => {});
  }

  #follow(message: Message, conversation: Conversation): Turn {
    const known = this.#followed.get(message.uid);
    if (known) {
      known.readers += 1;
      return known.turn;
    }
    const generation = new Generation();
    const result = generation.ended.then(async () =>
      this.#result(generation, await this.#latest(message.uid, conversation), true),
    );
    const release = () => {
      followed.readers -= 1;
    };
    const turn = toTurn(message, conversation.owner, generation, result, release);
    const followed: Followed = { turn, readers: 1 };
    this.#followed.set(message.uid, followed);
    // An error is ignored: the generating process may then stop the reply when its own caller disconnects.
    if (!message.details?.followed) this.#replies.noteFollowed(message).catch(() => {});
    void this.#poll(message, generation, followed);
    return turn;
  }

  /** Runs until the reply has ended or has no reader in this process. */
  async #poll(message: Message, generation: Generation, followed: Followed): Promise<void> {
    const read = { content: 0, reasoning: 0 };
    let wait = POLL_MS;
    while (followed.readers > 0 && generation.running) {
      const tail = await this.#tail(message, read);
      if (tail === undefined) wait = MAX_POLL_MS;
      else if (tail instanceof AppError) generation.fail(tail);
      else {
        wait = tail.content || tail.reasoning ? POLL_MS : Math.min(MAX_POLL_MS, wait * 1.5);
        read.content += countChars(tail.content);
        read.reasoning += countChars(tail.reasoning ?? '');
        grow(generation, tail, message);
      }
      if (generation.running) await pause(wait);
    }
    this.#followed.delete(message.uid);
  }

  /** Reads the conversation again, because the end of the reply has changed its last activity. */
  async #latest(uid: string, before: Conversation): Promise<Conversation> {
    const reply = await this.#replies.find(uid).catch(() => null);
    return reply?.conversation ?? before;
  }

  /** The text after `after`. An error if the reply is no longer stored, undefined if the database is unavailable. */
  async #tail(message: Message, after: TailPosition): Promise<ReplyTail | AppError | undefined> {
    const { uid } = message;
    const journalled = this.#pending.reply(uid);
    if (journalled && journalled.status !== 'streaming') {
      const content = afterCodePoints(journalled.content, after.content);
      const reasoning = afterCodePoints(journalled.reasoning ?? '', after.reasoning);
      return { ...journalled, settling: false, content, reasoning };
    }
    try {
      const tail = await this.#replies.tail(uid, after);
      return tail ?? (journalled ? undefined : await missingReply(this.#replies, message));
    } catch (error) {
      if (!(error instanceof AppError)) this.#log.error({ err: error }, 'reply of another process not read');
      return undefined;
    }
  }

  async #result(generation: Generation, conversation: Conversation, persisted: boolean): Promise<TurnResult> {
    const { outcome, error, text, reasoning } = generation;
    if (!outcome) throw error ?? new AppError('internal', undefined, { cause: 'the reply is still running' });
    const { truncated: _, ...end } = outcome;
    const expiresAt = this.#retention.expiresAt(conversation);
    return { content: text, reasoning: reasoning || null, ...end, persisted, expiresAt };
  }
}

function toTurn(
  message: Message,
  owner: string | null,
  generation: Generation,
  result: Promise<TurnResult>,
  release: () => void,
): Turn {
  return {
    conversationId: message.conversationId,
    owner,
    messageId: message.uid,
    questionId: message.replyTo,
    model: message.model ?? '',
    format: message.format ?? 'markdown',
    wantsReasoning: message.details?.wants_reasoning ?? false,
    reply: new Reply(generation),
    started: Promise.resolve(),
    result: withoutUnhandledRejection(result),
    cache: undefined,
    times: undefined,
    isStored: true,
    cached: false,
    replayed: false,
    release,
  };
}

function grow(generation: Generation, tail: ReplyTail, message: Message): void {
  generation.addTexts(tail);
  if (tail.status !== 'streaming' && !tail.settling) finish(generation, { ...message, ...tail });
}

function endedGeneration(message: Message): Generation {
  const generation = new Generation();
  generation.addTexts(message);
  finish(generation, message);
  return generation;
}

function finish(
  generation: Generation,
  {
    status,
    finishReason,
    usage,
    model,
    details,
  }: Pick<Message, 'status' | 'finishReason' | 'usage' | 'model' | 'details'>,
): void {
  const truncated = status === 'incomplete';
  if (truncated && finishReason !== 'length') {
    generation.fail(new AppError('reply_incomplete', 'The reply broke off; this is the stored part.'));
    return;
  }
  generation.finish({
    finishReason: finishReason ?? 'stop',
    usage,
    model: model ?? '',
    truncated,
    ...(finishReason === 'tool_calls' && details?.tool_calls && { toolCalls: details.tool_calls }),
    ...(details?.refusal && { refusal: true }),
  });
}

/** Counts code points, as the databases do. */
function countChars(text: string): number {
  let count = text.length;
  for (let at = 1; at < text.length; at++) if (isPair(text, at)) count -= 1;
  return count;
}

function afterCodePoints(text: string, chars: number): string {
  let at = 0;
  for (let left = chars; left > 0 && at < text.length; left--) at += isPair(text, at + 1) ? 2 : 1;
  return text.slice(at);
}

/** Whether the second half of a surrogate pair is at this position. */
function isPair(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xdc00 && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
}
