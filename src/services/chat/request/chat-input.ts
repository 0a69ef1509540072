import type { Access } from '../../../domain/access/access.ts';
import type { JsonObject, ParameterChanges } from '../../../domain/chat/parameters.ts';
import type { ContentPart, ContextMessage, ReplyFormat } from '../../../domain/conversations/conversation.ts';
import type { RevisionQuestion } from '../../conversations/revisions.ts';

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

/** A message of a caller that brings its own context. */
export interface ClientMessage extends ContextMessage {
  readonly wire: JsonObject;
  /** For a reply: its text is the model's refusal to answer. */
  readonly isRefusal?: true;
}

/** The messages of a caller that sends the whole conversation with every turn. */
export interface ClientContext {
  /** In the order of the caller, the question included. */
  readonly messages: readonly ClientMessage[];
  /** Whether the turn is stored. */
  readonly isStored: boolean;
}

export interface ChatInput {
  readonly question: ChatQuestion;
  /** Lower case; undefined starts a conversation with a new id. */
  readonly conversationId: string | undefined;
  readonly format: ReplyFormat;
  readonly model: string | undefined;
  /** False bypasses the response cache. */
  readonly cache: boolean;
  /** Overrides the system prompt of the conversation and of the settings. */
  readonly system?: string;
  /** Override those of the conversation and of the settings. */
  readonly parameters?: ParameterChanges;
  /** The caller's end user. */
  readonly user?: string;
  /** Merged into that of the conversation. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Whether the caller wants the model's reasoning. */
  readonly wantsReasoning: boolean;
  readonly access: Access;
  /** Undefined: the context is read from the stored conversation. */
  readonly client?: ClientContext;
}

/** The text of a question, for counting tokens; '' for a question that is stored already. */
export function questionText(question: ChatQuestion): string {
  if (question.kind === 'regenerate') return '';
  if (question.kind !== 'tools') return question.content;
  return question.results.map(({ content }) => content).join('\n');
}
