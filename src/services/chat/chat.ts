import type {
  IdempotencyKey,
  KeyClaim,
  PendingTurns,
  StoredKey,
  TurnStart,
} from '../../domain/chat/turns.ts';
import type {
  ConversationRepository,
  Instant,
  MessageDetails,
} from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { conversationNotFound } from '../../domain/errors.ts';
import type { Clock, IdSource } from '../../domain/runtime.ts';
import { within } from '../../util/timers.ts';
import { refreshHistory } from '../conversations/client-history.ts';
import { ContextHistory, type HistoryLimits } from '../conversations/context-history.ts';
import { findRevised, type RevisedQuestion } from '../conversations/revisions.ts';
import type { ExportThrottle } from '../exports/throttle.ts';
import { ClientTurns } from './client-turns.ts';
import type { CacheSharing, Generations, OpenedGeneration, ReplyMode } from './generations.ts';
import type { IdempotentTurns } from './idempotent-turns.ts';
import type { ChatInput } from './request/chat-input.ts';
import type { InputFilter } from './request/input-filter.ts';
import { emptyReply, newMessage } from './request/new-messages.ts';
import { type PreparedTurn, type RequestSettings, TurnPreparation } from './request/turn-preparation.ts';
import type { TurnObserver } from './timing/turn-observer.ts';
import { TurnTimes } from './timing/turn-times.ts';
import { type Turn, withoutUnhandledRejection } from './turn.ts';
import { KeyInUseError, type NewTurn, type TurnRecorder } from './turn-recorder.ts';

export interface ChatSettings extends HistoryLimits, RequestSettings {
  readonly retention: Retention;
  /** Whether each owner has cached replies of its own. */
  readonly cacheByOwner: boolean;
}

interface ChatParts {
  readonly conversations: Pick<
    ConversationRepository,
    'context' | 'find' | 'message' | 'messages' | 'setHistory' | 'withHistory'
  >;
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

/** Limit of the delay in {@link ChatService.begin} of a regenerated reply or an edited question. */
const REFRESH_MS = 1000;

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
  readonly #preparation: TurnPreparation;
  readonly #client: ClientTurns;
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
    this.#preparation = new TurnPreparation(settings, this.#context, parts.filter);
    this.#client = new ClientTurns(settings, { ...parts, context: this.#context });
    this.#clock = parts.clock;
    this.#ids = parts.ids;
  }

  /**
   * Starts a turn, or joins the one that has the idempotency key.
   * @throws AppError `database_unavailable`, `capacity`, `idempotency_mismatch`, `conversation_not_found` (also when
   * another owner has the conversation), `content_blocked` (before anything is stored or sent); for `regenerate` and
   * `edit` also `message_not_found`, `message_superseded`, `conversation_busy`
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
      const { kind } = input.question;
      return kind === 'regenerate' || kind === 'edit' ? this.#withRefreshedHistory(turn) : turn;
    } catch (error) {
      this.#observer.failed(input.model ?? this.#settings.model, error, times);
      throw error;
    }
  }

  /**
   * Delays the result until the history hash is stored again, so that a client's next messages find the conversation.
   */
  #withRefreshedHistory(turn: Turn): Turn {
    const refresh = () =>
      within(REFRESH_MS, refreshHistory(this.#revisions.conversations, turn.conversationId), () => {});
    return { ...turn, result: withoutUnhandledRejection(turn.result.finally(refresh)) };
  }

  async #begin(input: ChatInput, mode: ReplyMode, times: TurnTimes): Promise<Turn> {
    const { question, client } = input;
    if (client) return this.#client.begin(input, client, this.#cacheSharing(input), mode, times);
    if (question.kind !== 'message') return this.#beginRecorded(input, mode, times);
    const prepared = await this.#preparation.prepare(input, {
      conversationId: input.conversationId,
      activeSince: this.#activeSince(),
      failed: null,
      revised: undefined,
    });
    times.historyLoaded();
    const turn = this.#newTurn(input, prepared, times);
    times.called();
    const opened = this.#start(prepared, mode, input, turn);
    // A named conversation may be deleted while the reply is generated, and a single write would bring it back.
    const isNew = input.conversationId === undefined;
    const inOneWrite = !opened.generation.running || (mode === 'whole' && isNew);
    if (inOneWrite) return this.#recorder.trackInOneWrite(turn, opened);
    // The model already works while the user message is being stored.
    return this.#recorder.track(turn, opened, this.#recorder.recordStart(turn));
  }

  /**
   * Stores the start before it calls the model. Of several requests with the same key, or several revisions of one
   * conversation, on any worker, only the one whose start was stored then calls the model.
   * @param failed the earlier turn with this key, whose reply failed
   * @throws KeyInUseError when another request has claimed the key
   */
  async #beginRecorded(
    input: ChatInput,
    mode: ReplyMode,
    times: TurnTimes,
    key?: IdempotencyKey,
    failed: StoredKey | null = null,
  ): Promise<Turn> {
    const revised = await this.#revised(input, failed);
    const prepared = await this.#preparation.prepare(input, {
      conversationId: failed?.conversationId ?? input.conversationId,
      activeSince: this.#activeSince(),
      failed,
      revised,
    });
    times.historyLoaded();
    const { request } = prepared;
    const hit = this.#generations.cached(request, this.#cacheSharing(input));
    const claim: KeyClaim | undefined = key && {
      ...key,
      cached: hit !== undefined,
      replaces: failed?.replyId ?? null,
      expiredBefore: this.#activeSince(),
    };
    const turn: NewTurn = {
      ...this.#newTurn(input, prepared, times, failed, revised),
      ...(claim && { key: claim }),
    };
    if (hit && !revised) {
      times.called();
      const opened = this.#recorder.trackInOneWrite(turn, hit);
      await opened.started;
      return opened;
    }
    const outcome = await this.#recorder.recordStart(turn);
    if (outcome === 'taken' || outcome === 'gone') throw new KeyInUseError();
    times.called();
    try {
      const opened = this.#start(prepared, mode, input, turn);
      return this.#recorder.track(turn, opened, Promise.resolve());
    } catch (error) {
      await this.#recorder.recordFailure(turn);
      throw error;
    }
  }

  async #revised(
    { question, conversationId, access }: ChatInput,
    failed: StoredKey | null,
  ): Promise<RevisedQuestion | undefined> {
    if (question.kind !== 'edit' && question.kind !== 'regenerate') return undefined;
    if (conversationId === undefined) throw conversationNotFound();
    const since = this.#activeSince();
    return findRevised(this.#revisions, question, conversationId, access, since, failed?.replyId);
  }

  /** Undefined bypasses the cache, also for `regenerate`: it must not return the same reply again. */
  #cacheSharing({ cache, access, question, client }: ChatInput): CacheSharing | undefined {
    return cache && question.kind !== 'regenerate'
      ? { owner: this.#settings.cacheByOwner ? access.owner : null, ...(client && { isSolitary: true }) }
      : undefined;
  }

  #activeSince(): Instant {
    return this.#settings.retention.activeSince(this.#clock.now());
  }

  #newTurn(
    input: ChatInput,
    { request: { model }, stored, answers, pinned }: PreparedTurn,
    times: TurnTimes,
    failed?: StoredKey | null,
    revised?: RevisedQuestion,
  ): NewTurn {
    const { format, access, user, metadata } = input;
    const conversationId = failed?.conversationId ?? input.conversationId ?? this.#ids.next();
    const timestamp = this.#clock.now();
    const messages = stored.map((message) =>
      newMessage(this.#ids.next(), conversationId, message, timestamp),
    );
    const newest = messages.at(-1);
    const last = newest && failed ? { ...newest, uid: failed.questionId } : newest;
    const details: MessageDetails | null = input.wantsReasoning ? { wants_reasoning: true } : null;
    const asked = { model, format, details };
    const replyTo = failed?.questionId ?? last?.uid ?? revised?.uid ?? '';
    const reply = emptyReply(this.#ids.next(), conversationId, replyTo, timestamp, asked);
    const owner = access.unrestricted ? null : access.owner;
    const expiredBefore = this.#settings.retention.activeSince(timestamp);
    const changed = { ...(user !== undefined && { user }), ...(metadata && { metadata }) };
    if (revised) {
      return {
        owner,
        pinned,
        reply: { ...reply, details: { ...reply.details, supersedes: revised.uid } },
        times,
        // Undefined for `regenerate`: the question is stored already.
        revision: {
          by: access,
          expiredBefore,
          message: last?.uid === revised.uid ? undefined : last,
          ...changed,
        },
      };
    }
    if (failed || !last) return { owner, pinned, reply, times };
    const start: TurnStart = {
      conversationId,
      named: input.conversationId !== undefined,
      expiredBefore,
      by: access,
      message: last,
      ...(messages.length > 1 && { earlier: messages.slice(0, -1) }),
      ...(answers !== undefined && { answers }),
      ...changed,
    };
    return { owner, pinned, reply, times, start };
  }

  #start(
    { request, history }: PreparedTurn,
    mode: ReplyMode,
    input: ChatInput,
    turn: NewTurn,
  ): OpenedGeneration {
    const { conversationId, replyTo } = turn.reply;
    const opened = this.#generations.start(request, mode, this.#cacheSharing(input), conversationId);
    const where = { conversationId, model: request.model };
    this.#context.follow(opened.generation, where, history, replyTo);
    return opened;
  }
}
