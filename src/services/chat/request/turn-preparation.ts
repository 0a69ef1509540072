import type { ModelRequest } from '../../../domain/chat/model.ts';
import { type ModelParameters, withChanges } from '../../../domain/chat/parameters.ts';
import { MAX_METADATA, type StoredKey } from '../../../domain/chat/turns.ts';
import type {
  ContentPart,
  ContextMessage,
  ContextOptions,
  ConversationContext,
  HistoryMessage,
  Instant,
  TurnSettings,
} from '../../../domain/conversations/conversation.ts';
import {
  conversationBusy,
  conversationNotFound,
  invalidMember,
  userMismatch,
} from '../../../domain/errors.ts';
import type { ContextHistory } from '../../conversations/context-history.ts';
import type { RevisedQuestion } from '../../conversations/revisions.ts';
import type { ChatInput, ToolResult } from './chat-input.ts';
import { changeTexts, type InputFilter } from './input-filter.ts';
import type { NewMessage } from './new-messages.ts';

export interface RequestSettings {
  readonly model: string;
  readonly systemPrompt: string | undefined;
  readonly parameters: ModelParameters;
  /** False: `extra` that a conversation has stored from a time when it was allowed is not sent. */
  readonly allowsExtra: boolean;
}

/** What a turn sends to the model and stores. */
export interface PreparedTurn {
  readonly request: ModelRequest;
  readonly history: readonly HistoryMessage[];
  /** The question, or the results of tools; empty when they are stored already. */
  readonly stored: readonly NewMessage[];
  /** The uid of the reply whose tool calls `stored` answers. */
  readonly answers: string | undefined;
  /** Whether the conversation is pinned, so that it does not expire. */
  readonly pinned: boolean;
}

/** The caller's messages. The content filter can make the sent form differ from the stored one. */
interface Asked {
  readonly sent: readonly ContextMessage[];
  readonly stored: readonly NewMessage[];
}

/** The conversation of a turn, and the turn or question that it repeats or replaces. */
interface TurnBasis {
  readonly conversationId: string | undefined;
  readonly activeSince: Instant;
  /** The turn with the same idempotency key whose reply failed. */
  readonly failed: StoredKey | null;
  readonly revised: RevisedQuestion | undefined;
}

/** Builds the request to the model from the caller's input, the conversation and the settings. */
export class TurnPreparation {
  readonly #settings: RequestSettings;
  readonly #context: ContextHistory;
  /** Undefined: messages are not filtered. */
  readonly #filter: InputFilter | undefined;

  constructor(settings: RequestSettings, context: ContextHistory, filter: InputFilter | undefined) {
    this.#settings = settings;
    this.#context = context;
    this.#filter = filter;
  }

  /**
   * @throws AppError `conversation_not_found`, `content_blocked`, `user_mismatch`, `database_unavailable`; `validation`
   * for too much metadata, and for tool results that do not answer the calls of the newest reply; `conversation_busy`
   * for tool results while a reply is being generated
   */
  async prepare(input: ChatInput, basis: TurnBasis): Promise<PreparedTurn> {
    const { question, access, model } = input;
    const { conversationId, activeSince, failed, revised } = basis;
    const asked = question.kind === 'tools' ? undefined : this.#question(input, revised);
    const options = contextOptions(input, basis);
    const context = await this.#context.load({ conversationId, model, access, activeSince }, options);
    if (context.settings) checkSettings(input, context.settings);
    if (question.kind !== 'tools') return this.#prepared(input, context, asked ?? NOTHING_ASKED);
    if (!context.settings) throw conversationNotFound();
    if (failed) return this.#prepared(input, context, NOTHING_ASKED);
    if (context.busy) throw conversationBusy();
    const results = answersTo(context.open, question.results);
    return this.#prepared(
      input,
      context,
      this.#results(results, context.open?.uid ?? null),
      context.open?.uid,
    );
  }

  #prepared(
    input: ChatInput,
    { settings, pinned, messages: history }: ConversationContext,
    { sent, stored }: Asked,
    answers?: string,
  ): PreparedTurn {
    const { model, systemPrompt, parameters } = this.#settings;
    const own = input.system ?? settings?.system;
    const prompt = own === undefined || own === null ? systemPrompt : this.#text(own).sent;
    const system: ContextMessage[] = prompt ? [{ role: 'system', content: prompt }] : [];
    const user = input.user ?? settings?.user;
    const request: ModelRequest = {
      model: input.model ?? settings?.model ?? model,
      messages: [...system, ...(this.#filter?.maskHistory(history) ?? history), ...sent],
      parameters: this.#allowed(withChanges(withChanges(parameters, settings?.parameters), input.parameters)),
      ...(user && { user }),
    };
    return { request, history, stored, answers, pinned };
  }

  #allowed(parameters: ModelParameters): ModelParameters {
    if (this.#settings.allowsExtra || !parameters.extra) return parameters;
    const { extra: _, ...allowed } = parameters;
    return allowed;
  }

  /** Undefined when the reply answers tool results, which the context contains. */
  #question({ question }: ChatInput, revised: RevisedQuestion | undefined): Asked | undefined {
    if (revised?.isResult || question.kind === 'tools') return undefined;
    const isStored = question.kind === 'regenerate';
    const { content, parts } = isStored ? (revised ?? { content: '', parts: undefined }) : question;
    const text = this.#text(content);
    const [sentParts, storedParts] = [this.#parts(parts, 'sent'), this.#parts(parts, 'stored')];
    const details = storedParts ? { parts: storedParts } : null;
    return {
      sent: [{ role: 'user', content: text.sent, ...(sentParts && { parts: sentParts }) }],
      stored: isStored ? [] : [{ role: 'user', content: text.stored, replyTo: null, details }],
    };
  }

  #results(results: readonly ToolResult[], replyTo: string | null): Asked {
    const texts = results.map(({ toolCallId, content }) => ({ toolCallId, ...this.#text(content) }));
    return {
      sent: texts.map(({ toolCallId, sent: content }) => ({ role: 'tool', content, toolCallId })),
      stored: texts.map(({ toolCallId, stored: content }) => {
        return { role: 'tool', content, replyTo, details: { tool_call_id: toolCallId } };
      }),
    };
  }

  #parts(
    parts: readonly ContentPart[] | undefined,
    form: 'sent' | 'stored',
  ): readonly ContentPart[] | undefined {
    return this.#filter ? changeTexts(parts, (text) => this.#text(text)[form]) : parts;
  }

  #text(text: string): ReturnType<InputFilter['apply']> {
    return this.#filter?.apply(text) ?? { sent: text, stored: text };
  }
}

const NOTHING_ASKED: Asked = { sent: [], stored: [] };

function contextOptions({ question }: ChatInput, { failed, revised }: TurnBasis): ContextOptions {
  if (revised?.isResult) return { open: { result: revised.uid }, before: revised.seq + 1 };
  if (question.kind !== 'tools') return { except: failed?.questionId, before: revised?.seq };
  return { open: failed ? { result: failed.questionId } : 'calls' };
}

/**
 * Checks early, before the model is called. The transaction that stores the turn checks again.
 * @param settings of the conversation
 * @throws AppError `user_mismatch`; `validation` for too much metadata
 */
export function checkSettings(
  { user, metadata }: ChatInput,
  settings: Pick<TurnSettings, 'user' | 'metadata'>,
): void {
  if (user !== undefined && settings.user !== null && settings.user !== user) throw userMismatch();
  if (metadata && Object.keys({ ...settings.metadata, ...metadata }).length > MAX_METADATA)
    throw metadataFull();
}

export function metadataFull(): Error {
  return invalidMember('metadata', `must leave the conversation at most ${MAX_METADATA} members`);
}

export function nothingToAnswer(): Error {
  return invalidMember('tool_results', 'must answer a reply with calls; the newest one has none');
}

/** The results in the order of the calls. */
function answersTo(open: ConversationContext['open'], results: readonly ToolResult[]): readonly ToolResult[] {
  if (!open) throw nothingToAnswer();
  const ids = open.calls.map(({ id }) => id);
  const unknown = results.findIndex(({ toolCallId }) => !ids.includes(toolCallId));
  if (unknown >= 0) {
    throw invalidMember(
      `tool_results.${unknown}.tool_call_id`,
      'must be the id of a call of the newest reply',
    );
  }
  const ordered = ids.flatMap((id) => results.find(({ toolCallId }) => toolCallId === id) ?? []);
  if (ordered.length < ids.length) {
    throw invalidMember('tool_results', `must answer all ${ids.length} calls of the newest reply`);
  }
  return ordered;
}
