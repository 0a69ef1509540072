import { type Access, canAccess } from '../../domain/access/access.ts';
import { type PendingTurns, waitForReplay } from '../../domain/chat/turns.ts';
import { ContextTurns, turnsWithin } from '../../domain/conversations/context.ts';
import type {
  ConversationRepository,
  HistoryMessage,
  Instant,
  Message,
} from '../../domain/conversations/conversation.ts';
import { conversationNotFound } from '../../domain/errors.ts';

export interface HistoryLimits {
  /** The most stored messages in the context of a call. */
  readonly historyLimit: number;
  /** The most estimated tokens of them; undefined: no limit. */
  readonly historyMaxTokens: number | undefined;
}

/** The question that gets the context. */
interface Question {
  /** Undefined: of a new conversation. */
  readonly conversationId: string | undefined;
  readonly model: string;
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
  readonly #conversations: Pick<ConversationRepository, 'history'>;
  readonly #pending: PendingTurns;
  /**
   * The first message of the last context that a model took after it refused a longer one. In memory only: without it,
   * the next call is refused and shortened again.
   */
  readonly #starts = new Map<string, string>();

  constructor(
    limits: HistoryLimits,
    conversations: Pick<ConversationRepository, 'history'>,
    pending: PendingTurns,
  ) {
    this.#limits = limits;
    this.#conversations = conversations;
    this.#pending = pending;
  }

  /**
   * Oldest first, in whole turns.
   * @param except a question that is asked again
   * @param before only messages before this `seq`
   * @throws AppError `conversation_not_found` when another owner has the conversation, `database_unavailable`
   */
  async load(question: Question, except?: string, before?: number): Promise<readonly HistoryMessage[]> {
    const { conversationId, model, access, activeSince } = question;
    if (conversationId === undefined) return [];
    const stored = await this.#stored(conversationId, access, activeSince, except, before);
    const start = this.#starts.get(keyOf(conversationId, model));
    const at = start === undefined ? -1 : stored.findIndex(({ uid }) => uid === start);
    const taken = at > 0 ? stored.slice(at) : stored;
    const { historyMaxTokens } = this.#limits;
    return historyMaxTokens === undefined ? taken : turnsWithin(taken, historyMaxTokens);
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
      if (omitted > 0 && start !== null) this.#remember(keyOf(conversationId, model), start);
    });
  }

  #remember(key: string, start: string): void {
    this.#starts.delete(key);
    this.#starts.set(key, start);
    const [oldest] = this.#starts.keys();
    if (oldest !== undefined && this.#starts.size > MAX_CONVERSATIONS) this.#starts.delete(oldest);
  }

  async #stored(
    id: string,
    access: Access,
    activeSince: Instant,
    except?: string,
    before?: number,
  ): Promise<HistoryMessage[]> {
    const { historyLimit } = this.#limits;
    const journalled = this.#pending.has(id) ? this.#pending.conversation(id) : null;
    if (journalled && !canAccess(access, journalled.owner)) throw conversationNotFound();
    if (historyLimit === 0) return [];
    if (journalled) return contextOf(journalled.messages, historyLimit, activeSince);
    await waitForReplay(this.#pending, id);
    return this.#conversations.history(id, access, historyLimit, activeSince, except, before);
  }
}

function contextOf(messages: readonly Message[], limit: number, activeSince: Instant): HistoryMessage[] {
  const turns = new ContextTurns(limit);
  if ((messages.at(-1)?.timestamp ?? 0) >= activeSince) {
    for (const message of messages.toReversed()) turns.addOlder(message);
  }
  return turns.context();
}

function keyOf(conversationId: string, model: string): string {
  return `${conversationId} ${model}`;
}
