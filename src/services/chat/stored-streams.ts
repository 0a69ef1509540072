import type { Conversation, Message } from '../../domain/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { Retention } from '../../domain/retention.ts';
import type { Log } from '../../domain/runtime.ts';
import type { PendingTurns, ReplyStore, ReplyTail, StoredReply } from '../../domain/turns.ts';
import { pause } from '../../util/timers.ts';
import { Generation } from './generation.ts';
import { Reply } from './reply.ts';
import type { ReplyStream, TurnResult } from './turn.ts';

/** How often a reply that grows elsewhere is looked at: soon again while it grows, then ever less often. */
const LOOK_MS = 200;
const LOOK_SLOWEST_MS = 1000;

interface Followed {
  readonly stream: ReplyStream;
  readers: number;
}

interface StoredParts {
  readonly replies: Pick<ReplyStore, 'find' | 'tail'>;
  readonly pending: Pick<PendingTurns, 'reply'>;
  readonly log: Log;
}

/** Replies that are not being made in this process, as streams. */
export class StoredStreams {
  readonly #parts: StoredParts;
  readonly #retention: Retention;
  /** Those that another process writes on: all their readers here share one look at the database. */
  readonly #followed = new Map<string, Followed>();

  constructor(parts: StoredParts, retention: Retention) {
    this.#parts = parts;
    this.#retention = retention;
  }

  /** @param persisted false: it waits in the journal */
  open({ message, conversation, settling }: StoredReply, persisted = true): ReplyStream {
    if (message.status === 'streaming' || settling) return this.#follow(message, conversation);
    const generation = endedGeneration(message);
    const result = this.#result(generation, conversation, persisted);
    return this.#stream(message, conversation.owner, generation, result, () => {});
  }

  #follow(message: Message, conversation: Conversation): ReplyStream {
    const known = this.#followed.get(message.uid);
    if (known) {
      known.readers += 1;
      return known.stream;
    }
    const generation = new Generation();
    const result = generation.ended.then(async () =>
      this.#result(generation, await this.#latest(message.uid, conversation), true),
    );
    const followed: Followed = {
      stream: this.#stream(message, conversation.owner, generation, result, () => {
        followed.readers -= 1;
      }),
      readers: 1,
    };
    this.#followed.set(message.uid, followed);
    void this.#look(message, generation, followed);
    return followed.stream;
  }

  #stream(
    message: Message,
    owner: string | null,
    generation: Generation,
    result: Promise<TurnResult>,
    release: () => void,
  ): ReplyStream {
    result.catch(() => {});
    return {
      conversationId: message.conversationId,
      owner,
      messageId: message.uid,
      model: message.model ?? '',
      format: message.format ?? 'markdown',
      reply: new Reply(generation),
      started: Promise.resolve(),
      result,
      release,
    };
  }

  /** Until the reply has ended, or nobody here reads it any more. */
  async #look(message: Message, generation: Generation, followed: Followed): Promise<void> {
    let chars = 0;
    let wait = LOOK_MS;
    while (followed.readers > 0 && generation.running) {
      const tail = await this.#tail(message.uid, chars);
      if (tail === undefined) wait = LOOK_SLOWEST_MS;
      else {
        wait = tail?.content ? LOOK_MS : Math.min(LOOK_SLOWEST_MS, wait * 1.5);
        chars += charsIn(tail?.content ?? '');
        grow(generation, tail, message);
      }
      if (generation.running) await pause(wait);
    }
    this.#followed.delete(message.uid);
  }

  /** The end of a reply has moved its conversation on. */
  async #latest(uid: string, before: Conversation): Promise<Conversation> {
    const reply = await this.#parts.replies.find(uid).catch(() => null);
    return reply?.conversation ?? before;
  }

  /** Null: it was deleted. Undefined: the database is away, nobody knows. */
  async #tail(uid: string, afterChars: number): Promise<ReplyTail | null | undefined> {
    const waiting = this.#parts.pending.reply(uid);
    if (waiting && waiting.status !== 'streaming') {
      return { ...waiting, settling: false, content: [...waiting.content].slice(afterChars).join('') };
    }
    try {
      const tail = await this.#parts.replies.tail(uid, afterChars);
      return tail ?? (waiting ? undefined : null);
    } catch (error) {
      if (!(error instanceof AppError)) {
        this.#parts.log.error({ err: error }, 'a reply could not be followed');
      }
      return undefined;
    }
  }

  async #result(generation: Generation, conversation: Conversation, persisted: boolean): Promise<TurnResult> {
    const { outcome, error, text } = generation;
    if (!outcome)
      throw error ?? new AppError('internal', undefined, { cause: 'a running reply has no result' });
    const { finishReason, usage, model } = outcome;
    const expiresAt = this.#retention.expiresAt(conversation.lastActive);
    return { content: text, finishReason, usage, model, persisted, expiresAt };
  }
}

function grow(generation: Generation, tail: ReplyTail | null, message: Message): void {
  if (!tail) {
    generation.fail(new AppError('conversation_not_found', 'The conversation was deleted'));
    return;
  }
  if (tail.content !== '') generation.append(tail.content);
  if (tail.status !== 'streaming' && !tail.settling) finish(generation, { ...message, ...tail });
}

function endedGeneration(message: Message): Generation {
  const generation = new Generation();
  if (message.content !== '') generation.append(message.content);
  finish(generation, message);
  return generation;
}

function finish(
  generation: Generation,
  message: Pick<Message, 'status' | 'finishReason' | 'usage' | 'model'>,
): void {
  const { status, finishReason, usage, model } = message;
  if (status === 'incomplete' && finishReason !== 'length') {
    generation.fail(new AppError('reply_incomplete', 'The reply was broken off; this is all there is of it'));
    return;
  }
  const truncated = status === 'incomplete';
  generation.finish({ finishReason: finishReason ?? 'stop', usage, model: model ?? '', truncated });
}

/** In characters, as databases count. */
function charsIn(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
