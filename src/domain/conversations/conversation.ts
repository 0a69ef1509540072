import type { Access } from '../access/access.ts';
import type { JsonObject, ParameterChanges } from '../chat/parameters.ts';

/** Epoch milliseconds. */
export type Instant = number;

/** Numbers of conversations and of their messages. */
export interface Counts {
  conversations: number;
  messages: number;
}

/** `tool`: the result of a call that a reply asked for; `system`: an instruction that came with a caller's history. */
export const ROLES = ['user', 'assistant', 'tool', 'system'] as const;
export type Role = (typeof ROLES)[number];

/**
 * `streaming`: being generated; `incomplete`: ended by an error or a limit; `cancelled`: stopped by a caller;
 * `superseded`: a later reply or an edited question took its place, so that it is in no context.
 */
export const STATUSES = ['complete', 'streaming', 'incomplete', 'cancelled', 'superseded'] as const;
export type MessageStatus = (typeof STATUSES)[number];

export const FINISH_REASONS = [
  'stop',
  'length',
  'tool_calls',
  'content_filter',
  'cancelled',
  'error',
] as const;
export type FinishReason = (typeof FINISH_REASONS)[number];

/** The format in which a caller reads a reply. The model's Markdown is stored. */
export const FORMATS = ['markdown', 'text'] as const;
export type ReplyFormat = (typeof FORMATS)[number];

/** Token counts from the model server. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  /** Of the prompt, read from the model server's own cache. */
  readonly cached_tokens?: number;
  /** Of the completion. */
  readonly reasoning_tokens?: number;
}

/** A piece of a message in the form of OpenAI's API. */
export type ContentPart =
  | { readonly type: 'text'; readonly text: string }
  | {
      readonly type: 'image_url';
      readonly image_url: { readonly url: string; readonly detail?: 'auto' | 'low' | 'high' };
    };

/** A call that a reply asks for, in the form of OpenAI's API. Members that only its provider knows are kept. */
export interface ToolCall extends JsonObject {
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; readonly arguments: string };
}

/** What few messages have beside their text; stored as JSON. */
export interface MessageDetails {
  /** Of a question with images; its `content` is the text of the parts. */
  readonly parts?: readonly ContentPart[];
  /** Of a reply. */
  readonly tool_calls?: readonly ToolCall[];
  /** Of a tool's result: the call that it answers. */
  readonly tool_call_id?: string;
  /** The text of a reply is the model's refusal. */
  readonly refusal?: true;
  /** The caller asked for the reasoning of this reply. */
  readonly wants_reasoning?: true;
  /** Its stream has had a reader in another process while it was being generated. */
  readonly followed?: true;
  /** It came with the caller's history: this server has neither received nor generated it before. */
  readonly imported?: true;
  /**
   * Of a reply that takes the place of stored messages. After an edit: the uid of the edited question, which is
   * superseded with everything after it. After a regeneration: the uid of the question, which stays.
   */
  readonly supersedes?: string;
}

export interface Conversation {
  readonly id: string;
  readonly owner: string | null;
  readonly createdAt: Instant;
  readonly lastActive: Instant;
  /** It does not expire. */
  readonly pinned: boolean;
}

/** What callers have set; null: nothing. */
export interface ConversationSettings {
  /** Null: the first line of the first question. */
  readonly title: string | null;
  /** The caller's end user. */
  readonly user: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly system: string | null;
  readonly model: string | null;
  readonly parameters: ParameterChanges | null;
}

/** Members that are undefined stay as they are. */
export type ConversationChanges = {
  readonly [Name in keyof ConversationSettings]?: ConversationSettings[Name] | undefined;
} & { readonly pinned?: boolean | undefined };

/** A conversation at the time of a query. */
export interface FoundConversation extends Conversation {
  /** A conversation that reuses the id of a deleted one has another epoch or creation time. */
  readonly epoch: number;
  readonly settings: ConversationSettings;
}

/** A conversation by the hash of its visible messages. */
export interface HashedConversation extends FoundConversation {
  readonly historyHash: string;
}

/** A conversation of a list. */
export interface ConversationHead extends Conversation {
  readonly epoch: number;
  /** Null: see {@link ConversationOutline}. */
  readonly title: string | null;
  /** Of its settings, bytes. */
  readonly size: number;
}

/** What a list shows of a conversation. */
export interface ConversationOutline {
  readonly settings: ConversationSettings;
  /** Also the first line of its first question; null without any text. */
  readonly title: string | null;
  /** Of the visible ones. */
  readonly lastMessage:
    | (Pick<Message, 'uid' | 'role' | 'timestamp' | 'status'> & { readonly preview: string })
    | null;
}

/** Which conversations a list has; undefined: all. */
export interface ConversationFilter {
  readonly user?: string | undefined;
  readonly pinned?: boolean | undefined;
}

export interface Message {
  /** UUIDv7, the public id. It makes every write repeatable. */
  readonly uid: string;
  readonly conversationId: string;
  readonly role: Role;
  /** The unchanged text of the user or the model; of a reply always Markdown. */
  readonly content: string;
  readonly timestamp: Instant;
  readonly status: MessageStatus;
  /** Of a reply: the uid of the user message. */
  readonly replyTo: string | null;
  readonly model: string | null;
  readonly finishReason: FinishReason | null;
  readonly usage: Usage | null;
  /** Of a reply: the requested format, which the offsets of its stream count. Null in rows of earlier versions. */
  readonly format: ReplyFormat | null;
  /** Of a reply: what the model said before it, null without any. */
  readonly reasoning: string | null;
  readonly details: MessageDetails | null;
}

/** A message for the model. */
export interface ContextMessage {
  readonly role: Role;
  readonly content: string;
  /** Of a question with images; `content` is the text of the parts. */
  readonly parts?: readonly ContentPart[];
  /** Of a reply. */
  readonly toolCalls?: readonly ToolCall[];
  /** Of a tool's result. */
  readonly toolCallId?: string;
  /** Of a reply with calls: some models refuse the results without it. */
  readonly reasoning?: string;
  /** The message as the caller wrote it, which the model server gets in place of the other members. */
  readonly wire?: JsonObject;
}

/** A stored message in the context of the next one. */
export interface HistoryMessage extends ContextMessage {
  readonly uid: string;
}

export const RATINGS = ['up', 'down'] as const;

/** A person's opinion of a reply. */
export interface Feedback {
  readonly rating: (typeof RATINGS)[number];
  readonly comment: string | null;
}

/** Which messages a turn is asked with, beside the earlier exchanges. */
export interface ContextOptions {
  /** The uid of a question to leave out, because it is asked again. */
  readonly except?: string | undefined;
  /** Only messages before this `seq`. */
  readonly before?: number | undefined;
  /** The exchange that is being answered: the one whose newest reply has calls, or that this result of a tool ends. */
  readonly open?: 'calls' | { readonly result: string } | undefined;
}

/** What a conversation says about its turns. */
export type TurnSettings = Omit<ConversationSettings, 'title'>;

/** What a turn gets from its conversation. */
export interface ConversationContext {
  /** Null: the conversation is unknown, or was last active too long ago. */
  readonly settings: TurnSettings | null;
  readonly pinned: boolean;
  /** As {@link ContextTurns}, oldest first. */
  readonly messages: readonly HistoryMessage[];
  /** The newest reply with its calls, when the context was asked for with the option `open`. */
  readonly open?: { readonly uid: string; readonly calls: readonly ToolCall[] };
  /** The newest reply, whose calls the context was asked for, is being generated. */
  readonly busy?: true;
}

/** `seq` is its place in the conversation: a number that grows and is never reused. */
export interface SequencedMessage extends Message {
  readonly seq: number;
  readonly feedback?: Feedback;
}

/** Which messages of a conversation are read, and in which order. */
export interface MessageView {
  readonly newestFirst: boolean;
  /** Whether superseded messages are among them. */
  readonly superseded: boolean;
}

export interface MessagePage {
  readonly messages: readonly SequencedMessage[];
  readonly hasMore: boolean;
}

/** The last conversation of a page (newest activity first). */
export interface ConversationCursor {
  readonly lastActive: Instant;
  readonly id: string;
  /** Of a search that ended within the next conversation. */
  readonly within?: WithinConversation;
}

export interface WithinConversation {
  readonly id: string;
  /** Messages from this one on were searched. */
  readonly seq: number;
}

/** Tells whether a text has what is searched. */
export interface TextMatcher {
  isIn(text: string): Promise<boolean>;
}

/** How far a search came. */
export interface SearchedConversations {
  /** The ids of those that match. */
  readonly matches: ReadonlySet<string>;
  /** How many of the first conversations are decided; those after them can be among the matches too. */
  readonly searched: number;
  /** The `seq` before which the next conversation is searched; null: from its newest message. */
  readonly before: number | null;
}

/** Rejects with AppError `database_unavailable`. */
export interface ConversationRepository {
  create(conversation: Conversation, settings: ConversationChanges): Promise<void>;
  /** False when it does not exist or `access` does not include it. */
  update(id: string, access: Access, changes: ConversationChanges): Promise<boolean>;
  /**
   * Those of this owner and end user that have one of the hashes, while no reply of them is being generated. The one
   * used last comes first; a few at most.
   */
  withHistory(
    hashes: readonly string[],
    owner: string | null,
    user: string | null,
    activeSince: Instant,
  ): Promise<HashedConversation[]>;
  /** Stores the hash of a conversation that has none. Does nothing when it was used since it was found. */
  setHistory(
    conversation: Pick<FoundConversation, 'id' | 'epoch' | 'lastActive'>,
    hash: string,
  ): Promise<void>;
  /** Also finds an expired conversation. */
  find(id: string): Promise<FoundConversation | null>;
  /**
   * What a turn gets from its conversation: with `limit` 0 no messages.
   * @throws AppError `conversation_not_found` when another owner has the conversation
   */
  context(
    id: string,
    access: Access,
    limit: number,
    activeSince: Instant,
    options?: ContextOptions,
  ): Promise<ConversationContext>;
  /** Also finds a superseded one. */
  message(
    conversation: Pick<FoundConversation, 'id' | 'epoch'>,
    uid: string,
  ): Promise<SequencedMessage | null>;
  /**
   * At most `limit`, and no more than `maxBytes` of text, but at least one.
   * @param afterSeq 0: from the first one of the view
   * @throws AppError `conversation_not_found` when it was deleted meanwhile
   */
  messages(
    conversation: Pick<FoundConversation, 'id' | 'createdAt' | 'epoch'>,
    afterSeq: number,
    limit: number,
    maxBytes: number,
    view: MessageView,
  ): Promise<MessagePage>;
  /** Newest activity first, then by id descending. */
  list(
    access: Access,
    limit: number,
    before: ConversationCursor | null,
    activeSince: Instant,
    filter?: ConversationFilter,
  ): Promise<ConversationHead[]>;
  /** By id; without those that were deleted meanwhile. */
  outlines(heads: readonly ConversationHead[]): Promise<Map<string, ConversationOutline>>;
  /**
   * Looks for a text in titles and visible messages, newest message first, until all is searched or `isOver`.
   * @param from where an earlier search ended, if that is in the first conversation
   */
  search(
    heads: readonly ConversationHead[],
    text: TextMatcher,
    from: WithinConversation | null,
    isOver: () => boolean,
  ): Promise<SearchedConversations>;
  /** The conversation of a reply; null for other messages. */
  conversationOf(replyUid: string): Promise<string | null>;
  /** @param feedback null removes it. False when the reply is gone */
  rate(replyUid: string, feedback: Feedback | null): Promise<boolean>;
  /** With all messages. False when it does not exist or `access` does not include it. */
  delete(id: string, access: Access): Promise<boolean>;
  /** Resolves when the database responds and has the schema of this version. */
  check(): Promise<void>;
}
