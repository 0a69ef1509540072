import type { Access } from '../../domain/access/access.ts';
import type { ModelRequest } from '../../domain/chat/model.ts';
import { type ModelParameters, type ParameterChanges, withChanges } from '../../domain/chat/parameters.ts';
import type { IdempotencyKey, KeyClaim, PendingTurns, StoredKey } from '../../domain/chat/turns.ts';
import type {
  ContentPart,
  ContextMessage,
  ConversationRepository,
  HistoryMessage,
  Instant,
  Message,
  MessageDetails,
  ReplyFormat,
} from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { AppError, conversationNotFound } from '../../domain/errors.ts';
import type { Clock, IdSource } from '../../domain/runtime.ts';
import { ContextHistory, type HistoryLimits } from '../conversations/context-history.ts';
import { findRevised, type RevisedQuestion, type RevisionQuestion } from '../conversations/revisions.ts';
import type { ExportThrottle } from '../exports/throttle.ts';
import type { CacheSharing, Generations, OpenedGeneration, ReplyMode } from './generations.ts';
import { type IdempotentTurns, KEY_IN_USE } from './idempotent-turns.ts';
import type { InputFilter } from './input-filter.ts';
import type { TurnObserver } from './timing/turn-observer.ts';
import { TurnTimes } from './timing/turn-times.ts';
import type { Turn } from './turn.ts';
import { KeyInUseError, type NewTurn, type TurnRecorder } from './turn-recorder.ts';

export interface ChatSettings extends HistoryLimits {
  readonly model: string;
  readonly systemPrompt: string | undefined;
  readonly parameters: ModelParameters;
  readonly retention: Retention;
  /** Whether owners share no cached replies. */
  readonly cacheByOwner: boolean;
}

/** What a turn replies to. */
export type ChatQuestion =
  | {
      readonly kind: 'message';
      /** The text of the parts. */
      readonly content: string;
      /** Undefined: `content` alone. */
      readonly parts?: readonly ContentPart[];
    }
  /** The results of all calls of the newest reply. */
  | { readonly kind: 'tools'; readonly results: readonly ToolResult[] }
  | RevisionQuestion;

export interface ToolResult {
  readonly toolCallId: string;
  readonly content: string;
}

export interface ChatInput {
  readonly question: ChatQuestion;
  /** Lower case; undefined starts a conversation with a new id. */
  readonly conversationId: string | undefined;
  readonly format: ReplyFormat;
  readonly model: string | undefined;
  /** False bypasses the response cache. */
  readonly cache: boolean;
  /** The system prompt, over that of the conversation and of the settings. */
  readonly system?: string;
  /** Over those of the conversation and of the settings. */
  readonly parameters?: ParameterChanges;
  /** The caller's end user. */
  readonly user?: string;
  /** Merged into that of the conversation. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Whether the caller wants the model's reasoning. */
  readonly wantsReasoning: boolean;
  readonly access: Access;
}

/** The text of a question, for a count; none of one that is stored. */
export function questionText(question: ChatQuestion): string {
  if (question.kind === 'regenerate') return '';
  if (question.kind !== 'tools') return question.content;
  return question.results.map(({ content }) => content).join('\n');
}

interface ChatParts {
  readonly conversations: Pick<ConversationRepository, 'history' | 'find' | 'message'>;
  readonly pending: PendingTurns;
  readonly generations: Generations;
  readonly recorder: TurnRecorder;
  readonly idempotent: IdempotentTurns;
  readonly observer: TurnObserver;
  readonly throttle: Pick<ExportThrottle, 'noteChat'>;
  /** Undefined: messages are not filtered. */
  readonly filter: InputFilter | undefined;
  readonly clock: Clock;
  readonly ids: IdSource;
}

/** Starts turns: loads the context, calls the model, stores user message and reply. */
export class ChatService {
  readonly #settings: ChatSettings;
  readonly #context: ContextHistory;
  readonly #revisions: Pick<ChatParts, 'conversations' | 'pending'>;
  readonly #generations: Generations;
  readonly #recorder: TurnRecorder;
  readonly #idempotent: IdempotentTurns;
  readonly #observer: TurnObserver;
  readonly #throttle: Pick<ExportThrottle, 'noteChat'>;
  readonly #filter: InputFilter | undefined;
  readonly #clock: Clock;
  readonly #ids: IdSource;

  constructor(settings: ChatSettings, parts: ChatParts) {
    this.#settings = settings;
    this.#context = new ContextHistory(settings, parts.conversations, parts.pending);
    this.#revisions = parts;
    this.#generations = parts.generations;
    this.#recorder = parts.recorder;
    this.#idempotent = parts.idempotent;
    this.#observer = parts.observer;
    this.#throttle = parts.throttle;
    this.#filter = parts.filter;
    this.#clock = parts.clock;
    this.#ids = parts.ids;
  }

  /**
   * Starts a turn, or joins the one that has the idempotency key.
   * @throws AppError `database_unavailable`, `capacity`, `idempotency_mismatch`, `conversation_not_found` (also when
   * another owner has the conversation), `content_blocked` (before anything is stored or sent); of a revision also
   * `message_not_found`, `message_superseded`, `conversation_busy`
   */
  async begin(
    input: ChatInput,
    mode: ReplyMode,
    key?: IdempotencyKey,
    receivedAt = performance.now(),
  ): Promise<Turn> {
    this.#throttle.noteChat();
    const times = new TurnTimes(receivedAt, mode);
    try {
      const turn = key
        ? await this.#idempotent.run(key, this.#activeSince(), (failed) =>
            this.#beginRecorded(input, mode, times, key, failed),
          )
        : await this.#begin(input, mode, times);
      this.#observer.began(turn);
      return turn;
    } catch (error) {
      this.#observer.failed(input.model ?? this.#settings.model, error, times);
      throw error;
    }
  }

  async #begin(input: ChatInput, mode: ReplyMode, times: TurnTimes): Promise<Turn> {
    const { kind } = input.question;
    if (kind === 'edit' || kind === 'regenerate') {
      const turn = await this.#beginRecorded(input, mode, times);
      // Without a key nobody else can have it.
      if (turn === KEY_IN_USE) throw new AppError('internal');
      return turn;
    }
    const { sent, stored } = this.#filtered(questionText(input.question));
    const history = await this.#history(input, input.conversationId);
    times.historyLoaded();
    const request = this.#request(input, sent, history);
    const turn = this.#newTurn(input, stored, request.model, times);
    times.called();
    const opened = this.#start(request, mode, input, turn, history);
    // A named conversation may be deleted while the reply is generated, and a single write would bring it back.
    const isNew = input.conversationId === undefined;
    const inOneWrite = !opened.generation.running || (mode === 'whole' && isNew);
    if (inOneWrite) return this.#recorder.trackInOneWrite(turn, opened);
    // The model already works while the user message is being stored.
    return this.#recorder.track(turn, opened, this.#recorder.recordStart(turn));
  }

  /**
   * Stores the start before it calls the model: of equal requests with a key on all workers only one calls it, and so of
   * revisions of one conversation.
   * @param failed the turn with this key whose reply failed
   */
  async #beginRecorded(
    input: ChatInput,
    mode: ReplyMode,
    times: TurnTimes,
    key?: IdempotencyKey,
    failed: StoredKey | null = null,
  ): Promise<Turn | typeof KEY_IN_USE> {
    const revised = await this.#revised(input);
    const isAskedAgain = input.question.kind === 'regenerate';
    const { sent, stored } = this.#filtered(
      revised && isAskedAgain ? revised.content : questionText(input.question),
    );
    const conversationId = failed?.conversationId ?? input.conversationId;
    const history = await this.#history(input, conversationId, failed?.questionId, revised?.seq);
    times.historyLoaded();
    const request = this.#request(input, sent, history);
    const hit = this.#generations.cached(request, this.#cacheSharing(input));
    const claim: KeyClaim | undefined = key && {
      ...key,
      cached: hit !== undefined,
      replaces: failed?.replyId ?? null,
      expiredBefore: this.#activeSince(),
    };
    const turn: NewTurn = {
      ...this.#newTurn(input, stored, request.model, times, failed, revised),
      ...(claim && { key: claim }),
    };
    if (hit && !revised) {
      times.called();
      return this.#claimWithHit(turn, hit);
    }
    const outcome = await this.#recorder.recordStart(turn);
    if (outcome === 'taken' || outcome === 'gone') return KEY_IN_USE;
    times.called();
    try {
      const opened = this.#start(request, mode, input, turn, history);
      return this.#recorder.track(turn, opened, Promise.resolve());
    } catch (error) {
      await this.#recorder.recordFailure(turn);
      throw error;
    }
  }

  async #claimWithHit(newTurn: NewTurn, hit: OpenedGeneration): Promise<Turn | typeof KEY_IN_USE> {
    const turn = this.#recorder.trackInOneWrite(newTurn, hit);
    try {
      await turn.started;
      return turn;
    } catch (error) {
      if (error instanceof KeyInUseError) return KEY_IN_USE;
      throw error;
    }
  }

  #filtered(message: string): ReturnType<InputFilter['apply']> {
    return this.#filter?.apply(message) ?? { sent: message, stored: message };
  }

  async #revised({ question, conversationId, access }: ChatInput): Promise<RevisedQuestion | undefined> {
    if (question.kind !== 'edit' && question.kind !== 'regenerate') return undefined;
    if (conversationId === undefined) throw conversationNotFound();
    return findRevised(this.#revisions, question, conversationId, access, this.#activeSince());
  }

  /** Another reply to the same question is never a cached one. */
  #cacheSharing({ cache, access, question }: ChatInput): CacheSharing | undefined {
    return cache && question.kind !== 'regenerate'
      ? { owner: this.#settings.cacheByOwner ? access.owner : null }
      : undefined;
  }

  #activeSince(): Instant {
    return this.#settings.retention.activeSince(this.#clock.now());
  }

  #newTurn(
    input: ChatInput,
    content: string,
    model: string,
    times: TurnTimes,
    failed?: StoredKey | null,
    revised?: RevisedQuestion,
  ): NewTurn {
    const { format, access } = input;
    const conversationId = failed?.conversationId ?? input.conversationId ?? this.#ids.next();
    const questionId = failed?.questionId ?? this.#ids.next();
    const timestamp = this.#clock.now();
    const details: MessageDetails | null = input.wantsReasoning ? { wants_reasoning: true } : null;
    const asked = { model, format, details };
    const reply = emptyReply(this.#ids.next(), conversationId, questionId, timestamp, asked);
    const owner = access.unrestricted ? null : access.owner;
    if (revised) {
      const isAskedAgain = input.question.kind === 'regenerate';
      const message = isAskedAgain ? undefined : userMessage(questionId, conversationId, content, timestamp);
      const replyTo = message?.uid ?? revised.uid;
      const expiredBefore = this.#settings.retention.activeSince(timestamp);
      return {
        owner,
        reply: { ...reply, replyTo, details: { ...reply.details, supersedes: revised.uid } },
        times,
        revision: { by: access, expiredBefore, message },
      };
    }
    if (failed) return { owner, reply, times };
    const message = userMessage(questionId, conversationId, content, timestamp);
    const named = input.conversationId !== undefined;
    const expiredBefore = this.#settings.retention.activeSince(timestamp);
    return { owner, reply, times, start: { conversationId, named, expiredBefore, by: access, message } };
  }

  #history(
    { access, model = this.#settings.model }: ChatInput,
    conversationId: string | undefined,
    except?: string,
    before?: number,
  ): Promise<readonly HistoryMessage[]> {
    const activeSince = this.#activeSince();
    return this.#context.load({ conversationId, model, access, activeSince }, except, before);
  }

  #start(
    request: ModelRequest,
    mode: ReplyMode,
    input: ChatInput,
    turn: NewTurn,
    history: readonly HistoryMessage[],
  ): OpenedGeneration {
    const { conversationId, replyTo } = turn.reply;
    const opened = this.#generations.start(request, mode, this.#cacheSharing(input), conversationId);
    const where = { conversationId, model: request.model };
    this.#context.follow(opened.generation, where, history, replyTo);
    return opened;
  }

  #request(input: ChatInput, sent: string, history: readonly HistoryMessage[]): ModelRequest {
    const { model, systemPrompt, parameters } = this.#settings;
    const prompt = input.system ?? systemPrompt;
    const system: ContextMessage[] = prompt === undefined ? [] : [{ role: 'system', content: prompt }];
    const past = this.#filter?.maskHistory(history) ?? history;
    return {
      model: input.model ?? model,
      messages: [...system, ...past, { role: 'user', content: sent }],
      parameters: withChanges(parameters, input.parameters),
      ...(input.user !== undefined && { user: input.user }),
    };
  }
}

function userMessage(uid: string, conversationId: string, content: string, timestamp: Instant): Message {
  const none = {
    replyTo: null,
    model: null,
    finishReason: null,
    usage: null,
    format: null,
    reasoning: null,
    details: null,
  };
  return { uid, conversationId, role: 'user', content, timestamp, status: 'complete', ...none };
}

function emptyReply(
  uid: string,
  conversationId: string,
  replyTo: string,
  timestamp: Instant,
  asked: {
    readonly model: string;
    readonly format: ReplyFormat;
    readonly details: MessageDetails | null;
  },
): NewTurn['reply'] {
  const none = { finishReason: null, usage: null, reasoning: null };
  return {
    uid,
    conversationId,
    role: 'assistant',
    content: '',
    timestamp,
    status: 'streaming',
    replyTo,
    ...asked,
    ...none,
  };
}
