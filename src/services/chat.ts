import type {
  ContextMessage,
  FinishReason,
  Instant,
  Message,
  MessageStatus,
  Usage,
} from '../domain/conversation.ts';
import { AppError } from '../domain/errors.ts';
import type {
  Clock,
  ConversationRepository,
  IdSource,
  Log,
  ModelRequest,
  TurnStart,
  TurnWriter,
} from '../domain/ports.ts';
import type { Generation } from './generation.ts';
import type { CacheUse, Generations, ReplyMode } from './generations.ts';

export interface ChatSettings {
  readonly model: string;
  readonly systemPrompt: string | undefined;
  readonly temperature: number | undefined;
  readonly maxTokens: number | undefined;
  /** How many stored messages go along as context, at most. */
  readonly historyLimit: number;
  /** 0: conversations never expire. */
  readonly ttlMs: number;
}

export interface ChatInput {
  readonly message: string;
  /** Lower case; undefined starts a conversation with a new id. */
  readonly conversationId: string | undefined;
  readonly model: string | undefined;
  /** False goes past the response cache. */
  readonly cache: boolean;
}

/** What a reply came to. */
export interface TurnResult {
  readonly content: string;
  readonly finishReason: FinishReason;
  readonly usage: Usage | null;
  readonly model: string;
  /** Whether the turn is committed. False when the conversation was deleted meanwhile or the database went away. */
  readonly persisted: boolean;
  readonly expiresAt: Instant | null;
}

export interface Turn {
  readonly conversationId: string;
  /** The reply's public id; the id of its stream too. */
  readonly messageId: string;
  /** The model that was asked. */
  readonly model: string;
  readonly cache: CacheUse;
  readonly generation: Generation;
  /** Resolves when the user message is committed, and the reply with it where they go together. */
  readonly started: Promise<void>;
  /**
   * Resolves after the reply has ended and was saved, whoever still listens; rejects with the AppError that broke it
   * (after what had been said was saved), or with what kept the user message from being stored.
   */
  readonly result: Promise<TurnResult>;
}

type Reply = Pick<Turn, 'messageId' | 'model' | 'generation'>;

interface ChatParts {
  readonly conversations: ConversationRepository;
  readonly writer: TurnWriter;
  readonly generations: Generations;
  readonly clock: Clock;
  readonly ids: IdSource;
  readonly log: Log;
}

/** One question, one reply: context, call, and the two rows that stay. */
export class ChatService {
  readonly #settings: ChatSettings;
  readonly #parts: ChatParts;
  readonly #open = new Set<Promise<unknown>>();

  constructor(settings: ChatSettings, parts: ChatParts) {
    this.#settings = settings;
    this.#parts = parts;
  }

  /**
   * Starts a turn. The model is called before the user message is committed wherever no history is needed.
   * @throws AppError `database_unavailable`, `capacity`
   */
  async begin(input: ChatInput, mode: ReplyMode): Promise<Turn> {
    const { clock, ids, conversations, generations } = this.#parts;
    const now = clock.now();
    const expiredBefore = this.#expiredBefore(now);
    const history =
      input.conversationId !== undefined && this.#settings.historyLimit > 0
        ? await conversations.history(input.conversationId, this.#settings.historyLimit, expiredBefore)
        : [];
    const request = this.#request(input, history);
    const { generation, cache } = generations.start(request, mode, input.cache);
    const conversationId = input.conversationId ?? ids.next();
    const message = userMessage(ids.next(), conversationId, input.message, now);
    const start = { conversationId, named: input.conversationId !== undefined, expiredBefore, message };
    const turn = { conversationId, messageId: ids.next(), model: request.model, cache, generation };
    return { ...turn, ...this.#save(turn, start, mode) };
  }

  /** Resolves when every turn that was begun has been saved or given up. */
  async idle(): Promise<void> {
    while (this.#open.size > 0) await Promise.allSettled([...this.#open]);
  }

  #expiredBefore(now: Instant): Instant {
    return this.#settings.ttlMs === 0 ? 0 : now - this.#settings.ttlMs;
  }

  #request(input: ChatInput, history: readonly ContextMessage[]): ModelRequest {
    const { model, systemPrompt, temperature, maxTokens } = this.#settings;
    const system: ContextMessage[] =
      systemPrompt === undefined ? [] : [{ role: 'system', content: systemPrompt }];
    return {
      model: input.model ?? model,
      messages: [...system, ...history, { role: 'user', content: input.message }],
      ...(temperature === undefined ? {} : { temperature }),
      ...(maxTokens === undefined ? {} : { maxTokens }),
    };
  }

  #save(turn: Reply, start: TurnStart, mode: ReplyMode) {
    // One write instead of two: for a reply that is there already, and for a whole reply in a conversation that
    // nobody can have heard of before it. A named one could be deleted meanwhile, and must not come back.
    const together = !turn.generation.running || (mode === 'whole' && !start.named);
    const started = together ? undefined : this.#writeStart(turn, start);
    const result = started ? started.then(() => this.#saveReply(turn, start)) : this.#saveTurn(turn, start);
    const settled = result.then(ignore, ignore);
    this.#open.add(settled);
    void settled.then(() => this.#open.delete(settled));
    return { started: silenced(started ?? result.then(ignore)), result: silenced(result) };
  }

  /** A question that cannot be stored gets no reply: the call to the model ends, unless others wait for it too. */
  async #writeStart({ generation }: Reply, start: TurnStart): Promise<void> {
    const release = generation.hold();
    try {
      await this.#parts.writer.write({ start });
    } catch (error) {
      release(error);
      throw error;
    }
  }

  async #saveTurn(turn: Reply, start: TurnStart): Promise<TurnResult> {
    const { generation } = turn;
    // Whoever shares the call may give up; it is still wanted here.
    generation.hold();
    await generation.ended;
    if (generation.error && generation.pieces.length === 0) {
      await this.#parts.writer.write({ start });
      throw generation.error;
    }
    const reply = this.#reply(turn, start);
    const outcome = await this.#parts.writer.write({ start, reply });
    if (generation.error) throw generation.error;
    return this.#result(turn, reply, outcome === 'saved');
  }

  async #saveReply(turn: Reply, start: TurnStart): Promise<TurnResult> {
    const { generation } = turn;
    await generation.ended;
    if (generation.error && generation.pieces.length === 0) throw generation.error;
    const reply = this.#reply(turn, start);
    const persisted = await this.#writeReply(reply);
    if (generation.error) throw generation.error;
    return this.#result(turn, reply, persisted);
  }

  /** A reply that cannot be saved is still given to whoever asked, marked as not persisted. */
  async #writeReply(reply: Message): Promise<boolean> {
    try {
      return (await this.#parts.writer.write({ reply })) === 'saved';
    } catch (error) {
      const fields = { err: error, conversation_id: reply.conversationId, message_id: reply.uid };
      this.#parts.log.error(fields, 'a reply could not be saved');
      return false;
    }
  }

  #reply(turn: Reply, start: TurnStart): Message {
    const { outcome, text } = turn.generation;
    return {
      uid: turn.messageId,
      conversationId: start.conversationId,
      role: 'assistant',
      content: text,
      timestamp: this.#parts.clock.now(),
      status: statusOf(turn.generation),
      replyTo: start.message.uid,
      model: outcome?.model ?? turn.model,
      finishReason: outcome?.finishReason ?? 'error',
      usage: outcome?.usage ?? null,
    };
  }

  #result({ generation }: Reply, reply: Message, persisted: boolean): TurnResult {
    const { outcome } = generation;
    if (!outcome)
      throw new AppError('internal', undefined, { cause: 'a result was asked of a running reply' });
    const { ttlMs } = this.#settings;
    return {
      content: reply.content,
      finishReason: outcome.finishReason,
      usage: outcome.usage,
      model: outcome.model,
      persisted,
      expiresAt: ttlMs === 0 ? null : reply.timestamp + ttlMs,
    };
  }
}

function statusOf({ outcome }: Generation): MessageStatus {
  return outcome && !outcome.truncated ? 'complete' : 'incomplete';
}

function userMessage(uid: string, conversationId: string, content: string, timestamp: Instant): Message {
  const none = { replyTo: null, model: null, finishReason: null, usage: null };
  return { uid, conversationId, role: 'user', content, timestamp, status: 'complete', ...none };
}

function ignore(): void {}

/** The same promise, whose rejection does not end the process when nobody has asked for it yet. */
function silenced<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
