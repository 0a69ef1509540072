import { ContextTurns } from '../domain/context.ts';
import type { ContextMessage, Instant, Message, ReplyFormat } from '../domain/conversation.ts';
import type { Clock, ConversationRepository, IdSource, ModelRequest } from '../domain/ports.ts';
import type { KeyClaim, PendingTurns, StoredKey } from '../domain/turns.ts';
import type { Generations, ReplyMode } from './generations.ts';
import { type KeyedTurns, type RequestKey, TAKEN } from './keyed-turns.ts';
import { Reply } from './reply.ts';
import type { Turn } from './turn.ts';
import { KeyTaken, type Question, type TurnKeeper } from './turn-keeper.ts';

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
  readonly format: ReplyFormat;
  readonly model: string | undefined;
  /** False goes past the response cache. */
  readonly cache: boolean;
}

interface ChatParts {
  readonly conversations: ConversationRepository;
  readonly pending: PendingTurns;
  readonly generations: Generations;
  readonly keeper: TurnKeeper;
  readonly keyed: KeyedTurns;
  readonly clock: Clock;
  readonly ids: IdSource;
}

/** How long a question waits for what its conversation still has in the journal. */
const JOURNAL_WAIT_MS = 5000;

/** One question, one reply: context, call, and the two rows that stay. */
export class ChatService {
  readonly #settings: ChatSettings;
  readonly #parts: ChatParts;

  constructor(settings: ChatSettings, parts: ChatParts) {
    this.#settings = settings;
    this.#parts = parts;
  }

  /**
   * Starts a turn, or joins the one that the key stands for.
   * @throws AppError `database_unavailable`, `capacity`, `idempotency_mismatch`
   */
  begin(input: ChatInput, mode: ReplyMode, key?: RequestKey): Promise<Turn> {
    if (!key) return this.#begin(input, mode);
    const expiredBefore = this.#expiredBefore();
    return this.#parts.keyed.run(key, expiredBefore, (before) =>
      this.#beginKeyed(
        input,
        mode,
        { ...key, expiredBefore, cached: false, replaces: before?.replyId ?? null },
        before,
      ),
    );
  }

  /** The model is called before the user message is stored wherever no history is needed. */
  async #begin(input: ChatInput, mode: ReplyMode): Promise<Turn> {
    const request = this.#request(input, await this.#history(input.conversationId));
    const { generation, cache } = this.#parts.generations.start(request, mode, input.cache);
    const question = this.#question(input, request.model);
    // One write instead of two: for a reply that is there already, and for a whole reply in a conversation that
    // nobody can have heard of before it. A named one could be deleted meanwhile, and must not come back.
    const together = !generation.running || (mode === 'whole' && input.conversationId === undefined);
    const started = together ? undefined : this.#parts.keeper.begin(question).then(() => {});
    const stream = this.#parts.keeper.keep(question, new Reply(generation), started);
    return { ...stream, cache, cached: cache.kind === 'hit', replayed: false };
  }

  /**
   * The key first, then the call: of many equal requests at once, on whichever worker, one gets to ask the model.
   * @param before the question with this key whose reply failed
   */
  async #beginKeyed(
    input: ChatInput,
    mode: ReplyMode,
    claim: KeyClaim,
    before: StoredKey | null,
  ): Promise<Turn | typeof TAKEN> {
    const { generations, keeper } = this.#parts;
    const history = await this.#history(before?.conversationId ?? input.conversationId, before?.questionId);
    const request = this.#request(input, history);
    const hit = generations.cached(request, input.cache);
    const key = { ...claim, cached: hit !== undefined };
    const question = { ...this.#question(input, request.model, before), key };
    if (hit) {
      const stream = keeper.keep(question, new Reply(hit.generation), undefined);
      try {
        await stream.started;
        return { ...stream, cache: hit.cache, cached: true, replayed: false };
      } catch (error) {
        if (error instanceof KeyTaken) return TAKEN;
        throw error;
      }
    }
    const outcome = await keeper.begin(question);
    if (outcome === 'taken' || outcome === 'gone') return TAKEN;
    let opened: ReturnType<Generations['start']>;
    try {
      opened = generations.start(request, mode, input.cache);
    } catch (error) {
      await keeper.giveUp(question);
      throw error;
    }
    const stream = keeper.keep(question, new Reply(opened.generation), Promise.resolve());
    return { ...stream, cache: opened.cache, cached: false, replayed: false };
  }

  #expiredBefore(): Instant {
    const { ttlMs } = this.#settings;
    return ttlMs === 0 ? 0 : this.#parts.clock.now() - ttlMs;
  }

  #question(input: ChatInput, model: string, before?: StoredKey | null): Question {
    const { ids, clock } = this.#parts;
    const { format } = input;
    const conversationId = before?.conversationId ?? input.conversationId ?? ids.next();
    const questionId = before?.questionId ?? ids.next();
    const question = { conversationId, questionId, messageId: ids.next(), model, format, key: undefined };
    if (before) return { ...question, start: undefined };
    const message = userMessage(questionId, conversationId, input.message, clock.now());
    const named = input.conversationId !== undefined;
    return { ...question, start: { conversationId, named, expiredBefore: this.#expiredBefore(), message } };
  }

  /**
   * What waits in the journal belongs to it. A conversation that began there is whole there; of any other the
   * database knows more, so it must be back first.
   */
  async #history(id: string | undefined, except?: string): Promise<ContextMessage[]> {
    const { historyLimit } = this.#settings;
    if (id === undefined || historyLimit === 0) return [];
    const { pending, conversations } = this.#parts;
    const expiredBefore = this.#expiredBefore();
    if (pending.holds(id)) {
      const messages = pending.whole(id);
      if (messages) return contextOf(messages, historyLimit, expiredBefore);
      await pending.drained(JOURNAL_WAIT_MS);
    }
    return conversations.history(id, historyLimit, expiredBefore, except);
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
}

function contextOf(messages: readonly Message[], limit: number, expiredBefore: Instant): ContextMessage[] {
  const turns = new ContextTurns(limit);
  if ((messages.at(-1)?.timestamp ?? 0) >= expiredBefore) {
    for (const message of messages.toReversed()) turns.addOlder(message);
  }
  return turns.context();
}

function userMessage(uid: string, conversationId: string, content: string, timestamp: Instant): Message {
  const none = { replyTo: null, model: null, finishReason: null, usage: null, format: null };
  return { uid, conversationId, role: 'user', content, timestamp, status: 'complete', ...none };
}
