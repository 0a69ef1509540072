import type {
  ConversationRepository,
  FoundConversation,
  Instant,
  Message,
  MessageView,
  SequencedMessage,
  TurnSettings,
} from '../../domain/conversations/conversation.ts';
import { historyStart, storedForm } from '../../domain/conversations/history.ts';
import { chained, hashOf } from '../../util/hash-chain.ts';

/** What a client says about the conversation that it continues. */
export interface ClientHistory {
  readonly owner: string | null;
  readonly user: string | null;
  readonly system: string | undefined;
  /** Before the new messages. */
  readonly history: readonly Pick<Message, 'role' | 'content' | 'details'>[];
  /** The new messages. */
  readonly asked: readonly Pick<Message, 'role' | 'content' | 'details'>[];
}

/** The conversation with that history. */
export interface ContinuedConversation {
  readonly id: string;
  readonly pinned: boolean;
  readonly settings: TurnSettings;
  /** The hash of its visible messages. */
  readonly hash: string;
  /** Whether it has the new messages too, because the reply to them failed before its first text. */
  readonly isAsked: boolean;
  /** Its last message but for replies without text. */
  readonly last: Pick<Message, 'uid' | 'role'> | undefined;
}

const PAGE = 1000;
const PAGE_BYTES = 4 * 1024 * 1024;
const VISIBLE: MessageView = { newestFirst: false, superseded: false };

/** Null: none has the history, or it is empty. @throws AppError `database_unavailable` */
export async function findContinued(
  conversations: Pick<ConversationRepository, 'withHistory' | 'messages'>,
  client: ClientHistory,
  activeSince: Instant,
): Promise<ContinuedConversation | null> {
  const { owner, user, system, history, asked } = client;
  if (!history.some(({ role }) => role !== 'system')) return null;
  const past = forms(history);
  const all = [...past, ...forms(asked)];
  const hash = hashOf([...historyStart(owner, user, system ?? null), ...past]);
  const askedHash = all.slice(past.length).reduce(chained, hash);
  const found = await conversations.withHistory([hash, askedHash], owner, user, activeSince);
  for (const conversation of found) {
    const isAsked = conversation.historyHash === askedHash;
    if (conversation.settings.system !== (system ?? null)) continue;
    const read = await compare(conversations, conversation, isAsked ? all : past);
    if (read)
      return {
        id: conversation.id,
        pinned: conversation.pinned,
        settings: conversation.settings,
        hash: conversation.historyHash,
        isAsked,
        ...read,
      };
  }
  return null;
}

/**
 * Computes the hash of a conversation that no turn has kept: of a copy, or of one with superseded messages or another
 * system prompt, so that clients can continue it. Conversations of more than a page are left out. Never rejects.
 */
export async function refreshHistory(
  conversations: Pick<ConversationRepository, 'find' | 'messages' | 'setHistory'>,
  id: string,
): Promise<void> {
  try {
    const found = await conversations.find(id);
    if (!found) return;
    const { messages, hasMore } = await conversations.messages(found, 0, PAGE, PAGE_BYTES, VISIBLE);
    if (hasMore || messages.some(({ status }) => status === 'streaming')) return;
    const { owner, settings } = found;
    const start = historyStart(owner, settings.user, settings.system);
    await conversations.setHistory(found, hashOf([...start, ...forms(messages)]));
  } catch {
    // It is found by its id.
  }
}

function forms(messages: ClientHistory['history']): string[] {
  return messages.map(storedForm).filter((form) => form !== undefined);
}

/** Undefined: its messages are others, whatever the hash says. */
async function compare(
  conversations: Pick<ConversationRepository, 'messages'>,
  conversation: FoundConversation,
  expected: readonly string[],
): Promise<{ readonly last: SequencedMessage | undefined } | undefined> {
  let count = 0;
  let last: SequencedMessage | undefined;
  for (let after = 0; ; ) {
    const page = await conversations.messages(conversation, after, PAGE, PAGE_BYTES, VISIBLE);
    for (const message of page.messages) {
      after = message.seq;
      const form = storedForm(message);
      if (form === undefined) continue;
      if (form !== expected[count]) return undefined;
      count += 1;
      last = message;
    }
    if (!page.hasMore) return count === expected.length ? { last } : undefined;
  }
}
