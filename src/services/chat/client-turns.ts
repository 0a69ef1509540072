import type { ModelRequest } from '../../domain/chat/model.ts';
import { withChanges } from '../../domain/chat/parameters.ts';
import type { TurnStart } from '../../domain/chat/turns.ts';
import type { ConversationRepository, Instant, Message } from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { conversationNotFound, isDatabaseError } from '../../domain/errors.ts';
import type { Clock, IdSource } from '../../domain/runtime.ts';
import { findContinued } from '../conversations/client-history.ts';
import type { ContextHistory } from '../conversations/context-history.ts';
import type { CacheSharing, Generations, OpenedGeneration, ReplyMode } from './generations.ts';
import type { ChatInput, ClientContext } from './request/chat-input.ts';
import { type PreparedContext, prepareContext } from './request/client-context.ts';
import type { InputFilter } from './request/input-filter.ts';
import { emptyReply, type NewMessage, newMessage } from './request/new-messages.ts';
import { checkSettings, type RequestSettings } from './request/turn-preparation.ts';
import type { TurnTimes } from './timing/turn-times.ts';
import type { Turn } from './turn.ts';
import type { NewTurn, TurnRecorder } from './turn-recorder.ts';

interface ClientTurnSettings extends RequestSettings {
  readonly retention: Retention;
}

interface ClientTurnParts {
  readonly conversations: Pick<ConversationRepository, 'withHistory' | 'messages'>;
  readonly context: ContextHistory;
  readonly generations: Generations;
  readonly recorder: TurnRecorder;
  /** Undefined: messages are not filtered. */
  readonly filter: InputFilter | undefined;
  readonly clock: Clock;
  readonly ids: IdSource;
}

/** The conversation that a turn is stored in. */
interface Target {
  readonly conversationId: string;
  readonly kind: 'named' | 'continued' | 'new';
  /** The uid of the reply whose tool calls the new messages answer. */
  readonly answers: string | null;
  /** The turn is stored only if the conversation's history has this hash; undefined: not checked. */
  readonly expects?: string;
  /** The uid of the question, if the new messages are stored already. */
  readonly question?: string;
  /** Whether it never expires. */
  readonly pinned: boolean;
}

/**
 * Turns of callers that send the whole conversation with each request, as OpenAI's clients do. The model gets these
 * messages. The turn is added to the stored conversation that they continue; if there is none, all of them begin a new
 * one.
 */
export class ClientTurns {
  readonly #settings: ClientTurnSettings;
  readonly #parts: ClientTurnParts;

  constructor(settings: ClientTurnSettings, parts: ClientTurnParts) {
    this.#settings = settings;
    this.#parts = parts;
  }

  /**
   * @param sharing of the response cache
   * @throws AppError `conversation_not_found` for a named conversation, `content_blocked`, `user_mismatch`, `capacity`,
   * `database_unavailable`; `validation` for too much metadata
   */
  async begin(
    input: ChatInput,
    client: ClientContext,
    sharing: CacheSharing | undefined,
    mode: ReplyMode,
    times: TurnTimes,
  ): Promise<Turn> {
    const { generations, recorder, filter } = this.#parts;
    const prepared = prepareContext(client.messages, filter);
    const target = await this.#findTarget(input, client, prepared);
    times.historyLoaded();
    const request = this.#request(input, prepared);
    const turn = this.#newTurn(input, prepared, target, request.model, times);
    times.called();
    const opened = generations.start(request, mode, sharing, turn.reply.conversationId);
    if (!client.isStored) return recorder.trackUnstored(turn, opened);
    if (target.kind !== 'continued')
      return this.#record(turn, opened, mode === 'whole' && target.kind === 'new');
    const begun = () => this.#newTurn(input, prepared, this.#newTarget(), request.model, times);
    return this.#recordContinued(turn, opened, begun);
  }

  #record(turn: NewTurn, opened: OpenedGeneration, inOneWrite: boolean): Turn {
    const { recorder } = this.#parts;
    if (inOneWrite || !opened.generation.running) return recorder.trackInOneWrite(turn, opened);
    return recorder.track(turn, opened, recorder.recordStart(turn));
  }

  /**
   * @param begun makes the turn the first one of a new conversation, used if another turn continued the same history
   * first
   */
  async #recordContinued(turn: NewTurn, opened: OpenedGeneration, begun: () => NewTurn): Promise<Turn> {
    const { recorder } = this.#parts;
    try {
      const outcome = await recorder.recordStart(turn);
      if (outcome !== 'moved' && outcome !== 'gone') return recorder.track(turn, opened, Promise.resolve());
    } catch (error) {
      return recorder.track(turn, opened, Promise.reject(error));
    }
    return this.#record(begun(), opened, false);
  }

  async #findTarget(input: ChatInput, client: ClientContext, prepared: PreparedContext): Promise<Target> {
    const { conversationId, access, model } = input;
    if (!client.isStored) return this.#newTarget();
    if (conversationId === undefined) return (await this.#continued(input, prepared)) ?? this.#newTarget();
    const question = { conversationId, model, access, activeSince: this.#activeSince() };
    // The model gets the client's messages, so only the stored reply whose calls they answer is needed.
    const answersCalls = prepared.asked[0]?.role === 'tool';
    const { context } = this.#parts;
    const { settings, pinned, open } = await (answersCalls
      ? context.load(question, { open: 'calls' })
      : context.load(question, {}, 0));
    if (!settings) throw conversationNotFound();
    checkSettings(input, settings);
    return { conversationId, kind: 'named', answers: open?.uid ?? null, pinned };
  }

  /**
   * Undefined: the turn begins a conversation. So does one during an outage of the database, because its client sends
   * the whole history.
   */
  async #continued(input: ChatInput, prepared: PreparedContext): Promise<Target | undefined> {
    const { owner } = input.access;
    const client = { owner, user: input.user ?? null, ...prepared };
    try {
      const found = await findContinued(this.#parts.conversations, client, this.#activeSince());
      if (!found) return undefined;
      checkSettings(input, found.settings);
      const { id: conversationId, hash: expects, pinned, isAsked, last } = found;
      return {
        conversationId,
        kind: 'continued',
        expects,
        pinned,
        answers: last?.role === 'assistant' ? last.uid : null,
        ...(isAsked && last && { question: last.uid }),
      };
    } catch (error) {
      if (isDatabaseError(error)) return undefined;
      throw error;
    }
  }

  #newTarget(): Target {
    return { conversationId: this.#parts.ids.next(), kind: 'new', answers: null, pinned: false };
  }

  #activeSince(): Instant {
    return this.#settings.retention.activeSince(this.#parts.clock.now());
  }

  #request({ model, parameters, user }: ChatInput, { sent }: PreparedContext): ModelRequest {
    return {
      model: model ?? this.#settings.model,
      messages: sent,
      parameters: withChanges(this.#settings.parameters, parameters),
      ...(user !== undefined && { user }),
    };
  }

  #newTurn(
    input: ChatInput,
    prepared: PreparedContext,
    target: Target,
    model: string,
    times: TurnTimes,
  ): NewTurn {
    const { clock, ids } = this.#parts;
    const { access, format } = input;
    const { conversationId, pinned, expects } = target;
    const timestamp = clock.now();
    const start =
      target.question === undefined ? this.#startOf(input, prepared, target, timestamp) : undefined;
    const question = start ? questionOf(start) : (target.question ?? '');
    const details = { wants_reasoning: true } as const;
    return {
      owner: access.unrestricted ? null : access.owner,
      pinned,
      reply: emptyReply(ids.next(), conversationId, question, timestamp, { model, format, details }),
      times,
      ...(start && { start }),
      ...(expects !== undefined && { expects }),
    };
  }

  #startOf(
    { access, user, metadata }: ChatInput,
    { system, history, asked }: PreparedContext,
    { conversationId, kind, answers }: Target,
    timestamp: Instant,
  ): TurnStart {
    const isNew = kind === 'new';
    const added = isNew ? [...history, ...asked] : asked;
    const messages = chain(added, answers, (message) =>
      newMessage(this.#parts.ids.next(), conversationId, message, timestamp),
    );
    const last = messages.at(-1);
    if (!last) throw new Error('a turn has no message');
    return {
      conversationId,
      named: !isNew,
      expiredBefore: this.#settings.retention.activeSince(timestamp),
      by: access,
      message: last,
      ...(messages.length > 1 && { earlier: messages.slice(0, -1) }),
      ...(isNew && system !== undefined && { system }),
      ...(user !== undefined && { user }),
      ...(metadata && { metadata }),
    };
  }
}

/** The uid of the message that the reply answers. */
function questionOf({ earlier = [], message }: TurnStart): string {
  const asked = [...earlier, message].findLast(({ role }) => role === 'user' || role === 'tool');
  return (asked ?? message).uid;
}

/**
 * Gives the messages ids and `replyTo`.
 * @param answers the uid of the reply whose tool calls the first messages answer
 */
function chain(
  messages: readonly NewMessage[],
  answers: string | null,
  create: (message: NewMessage) => Message,
): Message[] {
  let asking = answers;
  let question: string | null = null;
  return messages.map((message) => {
    const { role } = message;
    const replyTo = role === 'assistant' ? question : role === 'tool' ? asking : null;
    const created = create({ ...message, replyTo });
    if (role === 'assistant') asking = created.uid;
    else if (role !== 'system') question = created.uid;
    return created;
  });
}
