import { type Access, canAccess } from '../../domain/access/access.ts';
import { type PendingConversation, type PendingTurns, waitForReplay } from '../../domain/chat/turns.ts';
import { ContextTurns, turnsWithin } from '../../domain/conversations/context.ts';
import type {
  ContextOptions,
  ConversationContext,
  ConversationRepository,
  HistoryMessage,
  Instant,
} from '../../domain/conversations/conversation.ts';
import { conversationNotFound } from '../../domain/errors.ts';
import { RecentMap } from '../../util/recent-map.ts';

export interface HistoryLimits {
  /** The most stored messages in the context of a call. */
  readonly historyLimit: number;
  /** The most estimated tokens of them; undefined: no limit. */
  readonly historyMaxTokens: number | undefined;
  /** The default model. */
  readonly model: string;
}

/** The question that gets the context. */
interface Question {
  /** Undefined: of a new conversation. */
  readonly conversationId: string | undefined;
  /** Undefined: the one of the conversation or of the settings. */
  readonly model: string | undefined;
  readonly access: Access;
  readonly activeSince: Instant;
}

/** A call to the model, see Generation. */
interface Call {
  readonly ended: Promise<void>;
  readonly outcome: { readonly omitted?: number } | undefined;
}

const MAX_CONVERSATIONS = 10_000;

/** Loads the stored messages that a question is sent with. */
export class ContextHistory {
  readonly #limits: HistoryLimits;
  readonly #conversations: Pick<ConversationRepository, 'context'>;
  readonly #pending: PendingTurns;
  /**
   * The first message of the last context that a model took after it refused a longer one. In memory only: without it,
   * the next call is refused and shortened again.
   */
  readonly #starts = new RecentMap<string>(MAX_CONVERSATIONS);

  constructor(
    limits: HistoryLimits,
    conversations: Pick<ConversationRepository, 'context'>,
    pending: PendingTurns,
  ) {
    this.#limits = limits;
    this.#conversations = conversations;
    this.#pending = pending;
  }

  /**
   * The messages are whole exchanges, oldest first.
   * @param limit of messages; 0: only the settings of the conversation and its open exchange are needed
   * @throws AppError `conversation_not_found` when another owner has the conversation, `database_unavailable`
   */
  async load(
    question: Question,
    options: ContextOptions = {},
    limit = this.#limits.historyLimit,
  ): Promise<ConversationContext> {
    const { conversationId, model, access, activeSince } = question;
    if (conversationId === undefined) return NO_CONTEXT;
    const stored = await this.#stored(conversationId, access, limit, activeSince, options);
    // The model of the turn is known now: the conversation may name it.
    const used = model ?? stored.settings?.model ?? this.#limits.model;
    return { ...stored, messages: this.#shortened(stored.messages, keyOf(conversationId, used), options) };
  }

  #shortened(
    messages: readonly HistoryMessage[],
    key: string,
    { open }: ContextOptions,
  ): readonly HistoryMessage[] {
    const start = this.#starts.get(key);
    const at = start === undefined ? -1 : messages.findIndex(({ uid }) => uid === start);
    const taken = at > 0 ? messages.slice(at) : messages;
    const { historyMaxTokens } = this.#limits;
    return historyMaxTokens === undefined ? taken : turnsWithin(taken, historyMaxTokens, open !== undefined);
  }

  /**
   * Remembers which messages a call leaves out because the model refuses them all.
   * @param history the messages that the call was given
   * @param questionId the uid of the question itself
   */
  follow(
    call: Call,
    { conversationId, model }: { readonly conversationId: string; readonly model: string },
    history: readonly HistoryMessage[],
    questionId: string | null,
  ): void {
    if (history.length === 0) return;
    const uids = history.map(({ uid }) => uid);
    void call.ended.then(() => {
      const omitted = call.outcome?.omitted ?? 0;
      const start = uids[omitted] ?? questionId;
      if (omitted > 0 && start !== null) this.#starts.set(keyOf(conversationId, model), start);
    });
  }

  async #stored(
    id: string,
    access: Access,
    limit: number,
    activeSince: Instant,
    options: ContextOptions,
  ): Promise<ConversationContext> {
    const journalled = this.#pending.has(id) ? this.#pending.conversation(id) : null;
    if (journalled && !canAccess(access, journalled.owner)) throw conversationNotFound();
    if (journalled) return contextOf(journalled, limit, activeSince, options);
    await waitForReplay(this.#pending, id);
    return this.#conversations.context(id, access, limit, activeSince, options);
  }
}

const NO_CONTEXT: ConversationContext = { settings: null, pinned: false, messages: [] };

function contextOf(
  { messages, user, metadata, system }: PendingConversation,
  limit: number,
  activeSince: Instant,
  options: ContextOptions,
): ConversationContext {
  if ((messages.at(-1)?.timestamp ?? 0) < activeSince) return NO_CONTEXT;
  const turns = new ContextTurns(limit, options);
  for (const message of messages.toReversed()) turns.addOlder(message);
  const settings = { system, model: null, parameters: null, user, metadata };
  return { settings, pinned: false, messages: turns.context(), ...turns.state };
}

function keyOf(conversationId: string, model: string): string {
  return `${conversationId} ${model}`;
}
