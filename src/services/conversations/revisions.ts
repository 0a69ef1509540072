import { type Access, canAccess } from '../../domain/access/access.ts';
import { type PendingTurns, waitForReplay } from '../../domain/chat/turns.ts';
import type {
  ContentPart,
  ConversationRepository,
  Instant,
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
  /** The context are the messages before this one. */
  readonly seq: number;
}

interface RevisionParts {
  readonly conversations: Pick<ConversationRepository, 'revised'>;
  readonly pending: Pick<PendingTurns, 'has' | 'flush'>;
}

/**
 * @throws AppError `conversation_not_found`, `message_not_found`, `message_superseded`, `validation` when the message is
 * of another kind, `database_unavailable`
 */
export async function findRevised(
  { conversations, pending }: RevisionParts,
  { kind, of }: RevisionQuestion,
  conversationId: string,
  access: Access,
  activeSince: Instant,
): Promise<RevisedQuestion> {
  await waitForReplay(pending, conversationId);
  const found = await conversations.revised(conversationId, of);
  if (!found || !canAccess(access, found.conversation.owner)) throw conversationNotFound();
  if (!found.conversation.pinned && found.conversation.lastActive < activeSince) throw conversationNotFound();
  const { message, question } = found;
  if (!message) throw messageNotFound();
  if (message.status === 'superseded') throw messageSuperseded();
  if (kind === 'edit' && message.role !== 'user') throw wrongRole(kind, 'a question');
  if (message.role === 'tool' || !question) throw wrongRole(kind, 'a question or of its reply');
  const { uid, seq, content, details } = question;
  return { uid, seq, content, ...(details?.parts && { parts: details.parts }) };
}

function wrongRole(path: string, expected: string): AppError {
  const message = `must be the id of ${expected}`;
  return new AppError('validation', `${path} ${message}`, { errors: [{ path, message }] });
}
