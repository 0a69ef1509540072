import { type Access, canAccess } from '../../domain/access.ts';
import { ContextTurns } from '../../domain/context.ts';
import type {
  ContextMessage,
  ConversationRepository,
  Instant,
  Message,
  ReplyFormat,
} from '../../domain/conversation.ts';
import { conversationNotFound } from '../../domain/errors.ts';
import type { ModelRequest } from '../../domain/model.ts';
import type { Retention } from '../../domain/retention.ts';
import type { Clock, IdSource } from '../../domain/runtime.ts';
import type { KeyClaim, PendingTurns, StoredKey } from '../../domain/turns.ts';
import type { ExportThrottle } from '../exports/throttle.ts';
import type { CacheSharing, Generations, ReplyMode } from './generations.ts';
import { type IdempotencyKey, type IdempotentTurns, KEY_IN_USE } from './idempotent-turns.ts';
import type { InputFilter, JudgedMessage } from './input-filter.ts';
import { Reply } from './reply.ts';
import type { Turn } from './turn.ts';
import { KeyInUseError, type Question, type TurnRecorder } from './turn-recorder.ts';

export interface ChatSettings {
  readonly model: string;
  readonly systemPrompt: string | undefined;
  readonly temperature: number | undefined;
  readonly maxTokens: number | undefined;
  /** How many stored messages go along as context, at most. */
  readonly historyLimit: number;
  readonly retention: Retention;
  /** Whether the response cache tells nobody what somebody else was told. */
  readonly cacheByOwner: boolean;
}

export interface ChatInput {
  readonly message: string;
  /** Lower case; undefined starts a conversation with a new id. */
  readonly conversationId: string | undefined;
  readonly format: ReplyFormat;
  readonly model: string | undefined;
  /** False goes past the response cache. */
  readonly cache: boolean;
  readonly access: Access;
}

interface ChatParts {
  readonly conversations: ConversationRepository;
  readonly pending: PendingTurns;
  readonly generations: Generations;
  readonly recorder: TurnRecorder;
  readonly idempotent: IdempotentTurns;
  readonly throttle: Pick<ExportThrottle, 'noteChat'>;
  /** Undefined: every message goes to the model as it came. */
  readonly filter: InputFilter | undefined;
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
   * @throws AppError `database_unavailable`, `capacity`, `idempotency_mismatch`, `conversation_not_found` when the
   * conversation is somebody else's, `content_blocked` before anything is stored or asked
   */
  begin(input: ChatInput, mode: ReplyMode, key?: IdempotencyKey): Promise<Turn> {
    this.#parts.throttle.noteChat();
    if (!key) return this.#begin(input, mode);
    const expiredBefore = this.#expiredBefore();
    return this.#parts.idempotent.run(key, expiredBefore, (before) =>
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
    const message = this.#judged(input);
    const history = await this.#history(input.conversationId, input.access);
    const request = this.#request(input, message, history);
    const { generation, cache } = this.#parts.generations.start(request, mode, this.#cacheUse(input));
    const question = this.#question(input, message, request.model);
    // One write instead of two: for a reply that is there already, and for a whole reply in a conversation that
    // nobody can have heard of before it. A named one could be deleted meanwhile, and must not come back.
    const together = !generation.running || (mode === 'whole' && input.conversationId === undefined);
    const started = together ? undefined : this.#parts.recorder.recordStart(question).then(() => {});
    const stream = this.#parts.recorder.track(question, new Reply(generation), started);
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
  ): Promise<Turn | typeof KEY_IN_USE> {
    const { generations, recorder } = this.#parts;
    const message = this.#judged(input);
    const id = before?.conversationId ?? input.conversationId;
    const history = await this.#history(id, input.access, before?.questionId);
    const request = this.#request(input, message, history);
    const hit = generations.cached(request, this.#cacheUse(input));
    const key = { ...claim, cached: hit !== undefined };
    const question = { ...this.#question(input, message, request.model, before), key };
    if (hit) {
      const stream = recorder.track(question, new Reply(hit.generation), undefined);
      try {
        await stream.started;
        return { ...stream, cache: hit.cache, cached: true, replayed: false };
      } catch (error) {
        if (error instanceof KeyInUseError) return KEY_IN_USE;
        throw error;
      }
    }
    const outcome = await recorder.recordStart(question);
    if (outcome === 'taken' || outcome === 'gone') return KEY_IN_USE;
    let opened: ReturnType<Generations['start']>;
    try {
      opened = generations.start(request, mode, this.#cacheUse(input));
    } catch (error) {
      await recorder.recordFailure(question);
      throw error;
    }
    const stream = recorder.track(question, new Reply(opened.generation), Promise.resolve());
    return { ...stream, cache: opened.cache, cached: false, replayed: false };
  }

  #judged({ message }: ChatInput): JudgedMessage {
    return this.#parts.filter?.judge(message) ?? { asked: message, stored: message };
  }

  #cacheUse({ cache, access }: ChatInput): CacheSharing | undefined {
    return cache ? { owner: this.#settings.cacheByOwner ? access.owner : null } : undefined;
  }

  #expiredBefore(): Instant {
    return this.#settings.retention.activeSince(this.#parts.clock.now());
  }

  #question(input: ChatInput, { stored }: JudgedMessage, model: string, before?: StoredKey | null): Question {
    const { ids, clock } = this.#parts;
    const { format, access } = input;
    const conversationId = before?.conversationId ?? input.conversationId ?? ids.next();
    const questionId = before?.questionId ?? ids.next();
    // Somebody to whom all is open may ask in anybody's conversation: whose the reply is the database says.
    const owner = access.unrestricted ? null : access.owner;
    const question = {
      conversationId,
      owner,
      questionId,
      messageId: ids.next(),
      model,
      format,
      key: undefined,
    };
    if (before) return { ...question, start: undefined };
    const message = userMessage(questionId, conversationId, stored, clock.now());
    const named = input.conversationId !== undefined;
    const expiredBefore = this.#expiredBefore();
    return { ...question, start: { conversationId, named, expiredBefore, by: access, message } };
  }

  /**
   * What waits in the journal belongs to it. A conversation that began there is whole there; of any other the
   * database knows more, so it must be back first.
   */
  async #history(id: string | undefined, access: Access, except?: string): Promise<ContextMessage[]> {
    const { historyLimit } = this.#settings;
    if (id === undefined) return [];
    const { pending, conversations } = this.#parts;
    const expiredBefore = this.#expiredBefore();
    const waits = pending.has(id);
    const messages = waits ? pending.messages(id) : null;
    if (messages && !canAccess(access, pending.ownerOf(id) ?? null)) throw conversationNotFound();
    if (historyLimit === 0) return [];
    if (messages) return contextOf(messages, historyLimit, expiredBefore);
    if (waits) await pending.flush(JOURNAL_WAIT_MS);
    return conversations.history(id, access, historyLimit, expiredBefore, except);
  }

  #request(input: ChatInput, { asked }: JudgedMessage, history: readonly ContextMessage[]): ModelRequest {
    const { filter } = this.#parts;
    const past = filter ? filter.past(history) : history;
    const { model, systemPrompt, temperature, maxTokens } = this.#settings;
    const system: ContextMessage[] =
      systemPrompt === undefined ? [] : [{ role: 'system', content: systemPrompt }];
    return {
      model: input.model ?? model,
      messages: [...system, ...past, { role: 'user', content: asked }],
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
