import { type Access, canAccess } from '../../domain/access/access.ts';
import { type PendingTurns, waitForReplay } from '../../domain/chat/turns.ts';
import type {
  ContentPart,
  ConversationRepository,
  FoundConversation,
  Instant,
  Message,
  SequencedMessage,
} from '../../domain/conversations/conversation.ts';
import { AppError, conversationNotFound, messageNotFound, messageSuperseded } from '../../domain/errors.ts';

/** A turn that takes the place of stored messages; `of` is the uid of one. */
export type RevisionQuestion =
  | {
      readonly kind: 'edit';
      readonly of: string;
      /** The text of the parts. */
      readonly content: string;
      /** Undefined: `content` alone. */
      readonly parts?: readonly ContentPart[];
    }
  | { readonly kind: 'regenerate'; readonly of: string };

/** The question that is asked again or edited. */
export interface RevisedQuestion {
  readonly uid: string;
  readonly content: string;
  readonly parts?: readonly ContentPart[];
  /** It is the last result of a tool before the reply. */
  readonly isResult: boolean;
  /** The context are the messages before this one. */
  readonly seq: number;
}

interface StoredParts {
  readonly conversations: Pick<ConversationRepository, 'find'>;
  readonly pending: Pick<PendingTurns, 'has' | 'flush'>;
}

interface RevisionParts extends StoredParts {
  readonly conversations: Pick<ConversationRepository, 'find' | 'message'>;
}

/**
 * A conversation that has not expired, with every turn of this host's journal.
 * @throws AppError `conversation_not_found`, `database_unavailable`
 */
export async function findConversation(
  { conversations, pending }: StoredParts,
  id: string,
  access: Access,
  activeSince: Instant,
): Promise<FoundConversation> {
  await waitForReplay(pending, id);
  const found = await conversations.find(id);
  if (!found || !canAccess(access, found.owner)) throw conversationNotFound();
  if (!found.pinned && found.lastActive < activeSince) throw conversationNotFound();
  return found;
}

/**
 * @param failed the uid of the failed reply of the same revision; when it has taken its place already, it is regenerated
 * @throws AppError `conversation_not_found`, `message_not_found`, `message_superseded`, `validation` when the message is
 * of another kind, `database_unavailable`
 */
export async function findRevised(
  parts: RevisionParts,
  revision: RevisionQuestion,
  conversationId: string,
  access: Access,
  activeSince: Instant,
  failed?: string,
): Promise<RevisedQuestion> {
  const conversation = await findConversation(parts, conversationId, access, activeSince);
  const earlier = failed === undefined ? null : await parts.conversations.message(conversation, failed);
  const { kind, of } = earlier?.status === 'incomplete' ? { kind: 'regenerate', of: earlier.uid } : revision;
  const message = await parts.conversations.message(conversation, of);
  if (!message) throw messageNotFound();
  if (message.status === 'superseded') throw messageSuperseded();
  if (kind === 'edit' && message.role !== 'user') throw wrongRole(kind, 'a question');
  const isReply = message.role === 'assistant';
  const question = isReply ? await questionOf(parts, conversation, message) : message;
  if (message.role === 'tool' || !question || question.role === 'system')
    throw wrongRole(kind, 'a question or of its reply');
  const { uid, seq, role, content, details } = question;
  return { uid, seq, content, isResult: role === 'tool', ...(details?.parts && { parts: details.parts }) };
}

async function questionOf(
  { conversations }: RevisionParts,
  conversation: FoundConversation,
  { replyTo }: Message,
): Promise<SequencedMessage | null> {
  return replyTo === null ? null : conversations.message(conversation, replyTo);
}

function wrongRole(path: string, expected: string): AppError {
  const message = `must be the id of ${expected}`;
  return new AppError('validation', `${path} ${message}`, { errors: [{ path, message }] });
}
