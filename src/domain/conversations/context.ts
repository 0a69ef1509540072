import type {
  ContentPart,
  ContextMessage,
  ContextOptions,
  ConversationContext,
  HistoryMessage,
  MessageDetails,
  MessageStatus,
  Role,
  ToolCall,
} from './conversation.ts';

/** The parts of a stored message that decide about its place in the context. */
export interface PastMessage {
  readonly uid: string;
  readonly role: Role | string;
  readonly content: string;
  readonly status: MessageStatus | string;
  readonly replyTo: string | null;
  readonly reasoning: string | null;
  readonly details: MessageDetails | null;
}

/**
 * Collects the newest exchanges of a conversation: a question with its newest reply that has ended and has text, and
 * every call of tools between them with its results. They are taken whole or not at all. A question without such a
 * reply is left out, and one whose calls were never answered.
 */
export class ContextTurns {
  readonly #limit: number;
  readonly #except: string | undefined;
  readonly #exchanges: PastMessage[][] = [];
  readonly #replies = new Map<string, PastMessage>();
  /** By the reply whose calls they answer, newest first. */
  readonly #results = new Map<string, PastMessage[]>();
  #open: OpenExchange | undefined;
  #count = 0;
  #full = false;

  /** @param limit of messages, those of the open exchange included */
  constructor(limit: number, { except, open }: ContextOptions = {}) {
    this.#limit = limit;
    this.#except = except;
    this.#open = open && new OpenExchange(open);
  }

  get full(): boolean {
    if (this.#open && !this.#open.isWhole) return this.#open.hasFailed;
    return this.#full || this.#size + 2 > this.#limit;
  }

  /** What the caller needs to know of the open exchange. */
  get state(): Pick<ConversationContext, 'open' | 'busy'> {
    const { isWhole = false, calling, isBusy = false } = this.#open ?? {};
    return {
      ...(isWhole && calling && { open: { uid: calling.uid, calls: calling.details?.tool_calls ?? [] } }),
      ...(isBusy && { busy: true }),
    };
  }

  /** Messages must come newest first: all replies before their question, and results after the calls. */
  addOlder(message: PastMessage): void {
    if (message.status === 'superseded') return;
    if (this.#open?.takes(message)) return;
    const { uid, role, replyTo, status, content, details } = message;
    if (role === 'user') {
      if (uid !== this.#except) this.#addExchange(message);
    } else if (replyTo === null) return;
    else if (role === 'tool') {
      const others = this.#results.get(replyTo);
      if (others) others.push(message);
      else this.#results.set(replyTo, [message]);
    } else if (status !== 'streaming' && (content !== '' || details?.tool_calls)) {
      if (!this.#replies.has(replyTo)) this.#replies.set(replyTo, message);
    }
  }

  /** Oldest first, the open exchange at the end. */
  context(): HistoryMessage[] {
    const open = this.#open?.isWhole ? this.#open.messages : [];
    return [...this.#exchanges.toReversed().flat(), ...open].map(toHistory);
  }

  get #size(): number {
    return this.#count + (this.#open?.messages.length ?? 0);
  }

  #addExchange(question: PastMessage): void {
    const replies = this.#answerTo(question.uid);
    if (!replies || this.#full) return;
    if (this.#size + 1 + replies.length > this.#limit) {
      this.#full = true;
      return;
    }
    this.#exchanges.push([question, ...replies]);
    this.#count += 1 + replies.length;
  }

  /** What follows a question or the results of calls, to the end; undefined when it has no end. */
  #answerTo(uid: string): PastMessage[] | undefined {
    const reply = this.#replies.get(uid);
    const calls = reply?.details?.tool_calls;
    if (!reply || !calls) return reply && [reply];
    const results = this.#results.get(reply.uid) ?? [];
    const at = results.findIndex((result) => this.#replies.has(result.uid));
    const last = results[at];
    const round = last && roundOf(results.slice(at), calls);
    const rest = round && this.#answerTo(last.uid);
    return rest && [reply, ...round, ...rest];
  }
}

/** The newest result of each call, oldest first; undefined when one is missing. @param results newest first */
function roundOf(results: readonly PastMessage[], calls: readonly ToolCall[]): PastMessage[] | undefined {
  const found = new Map<string | undefined, PastMessage>();
  for (const result of results) {
    const id = result.details?.tool_call_id;
    if (!found.has(id)) found.set(id, result);
  }
  const round = results.filter((result) => found.get(result.details?.tool_call_id) === result).toReversed();
  return calls.every(({ id }) => found.has(id)) ? round : undefined;
}

/** An exchange that has no end yet, read from its end to its question. */
class OpenExchange {
  /** Oldest first. */
  messages: PastMessage[] = [];
  isWhole = false;
  /** The newest reply, when it has calls. */
  calling: PastMessage | undefined;
  /** The uid of the next older message; undefined: the newest reply. */
  #next: string | undefined;
  /** The newest reply asks for no calls. */
  hasFailed = false;
  /** The newest reply is being generated. */
  isBusy = false;
  #results: PastMessage[] = [];

  constructor(open: 'calls' | { readonly result: string }) {
    this.#next = open === 'calls' ? undefined : open.result;
  }

  /** Whether the message belongs to it. */
  takes(message: PastMessage): boolean {
    const { uid, role, status, details, replyTo } = message;
    if (this.isWhole || this.hasFailed) return false;
    if (this.#next === undefined) {
      // Results without a reply: it failed, and the caller sends them again.
      if (role !== 'assistant') return role === 'tool';
      this.isBusy = status === 'streaming';
      this.hasFailed = this.isBusy || !details?.tool_calls;
      if (this.hasFailed) return false;
    } else if (role === 'tool' && this.#results[0] && replyTo === this.#results[0].replyTo) {
      this.#results.push(message);
      return true;
    } else if (uid !== this.#next) return false;
    if (role === 'tool') {
      this.#results = [message];
      this.#next = replyTo ?? '';
      return true;
    }
    if (role === 'user') this.isWhole = true;
    else this.calling ??= message;
    const results = this.#results.length > 0 ? (roundOf(this.#results, details?.tool_calls ?? []) ?? []) : [];
    this.messages = [message, ...results, ...this.messages];
    this.#results = [];
    this.#next = replyTo ?? '';
    return true;
  }
}

function toHistory({ uid, role, content, reasoning, details }: PastMessage): HistoryMessage {
  if (role === 'user') return { role, content, uid, ...(details?.parts && { parts: details.parts }) };
  if (role === 'tool') return { role, content, uid, toolCallId: details?.tool_call_id ?? '' };
  const calls = details?.tool_calls;
  const more = calls && { toolCalls: calls, ...(reasoning !== null && { reasoning }) };
  return { role: 'assistant', content, uid, ...more };
}

/** Four bytes a token is common for English and close for Chinese. */
export function estimatedTokens(text: string): number {
  return Math.ceil(Buffer.byteLength(text) / 4);
}

/**
 * The newest exchanges that have at most `maxTokens` estimated tokens. Messages begin with a question.
 * @param open the last exchange is being answered, and stays
 */
export function turnsWithin<T extends ContextMessage>(
  messages: readonly T[],
  maxTokens: number,
  open = false,
): readonly T[] {
  let left = maxTokens;
  let from = open ? messages.findLastIndex(({ role }) => role === 'user') : messages.length;
  for (const [at, message] of [...messages.entries()].reverse()) {
    left -= tokensOf([message]);
    if (left < 0) break;
    if (message.role === 'user') from = at;
  }
  return messages.slice(from);
}

/**
 * The messages without their oldest turns, at least one of them. What is before the first question (the system prompt)
 * and the last question stay. Undefined when there is no turn to leave out.
 * @param share of the estimated tokens that may remain; undefined: half of the turns
 */
export function withoutOldestTurns(
  messages: readonly ContextMessage[],
  share: number | undefined,
): ContextMessage[] | undefined {
  const questions = messages.flatMap(({ role }, at) => (role === 'user' ? [at] : []));
  const [first, ...later] = questions;
  const last = later.at(-1);
  if (first === undefined || last === undefined) return undefined;
  const half = later[Math.ceil(later.length / 2) - 1];
  let left = tokensOf(messages);
  const target = left * (share ?? 1);
  let at = first;
  const fits = later.find((next) => {
    left -= tokensOf(messages.slice(at, next));
    at = next;
    return left <= target;
  });
  const from = (share === undefined ? half : fits) ?? last;
  return withoutOldest(messages, from - first);
}

/** Without the first `count` messages after the system prompt. */
export function withoutOldest(messages: readonly ContextMessage[], count: number): ContextMessage[] {
  const first = messages.findIndex(({ role }) => role === 'user');
  return messages.toSpliced(first, count);
}

function tokensOf(messages: readonly ContextMessage[]): number {
  return messages.reduce((sum, { content, parts, toolCalls, reasoning }) => {
    const more = toolCalls ? estimatedTokens(JSON.stringify(toolCalls) + (reasoning ?? '')) : 0;
    return sum + estimatedTokens(content) + more + (parts ? imagesIn(parts) * IMAGE_TOKENS : 0);
  }, 0);
}

/** What a photo of one megapixel costs with most models. */
const IMAGE_TOKENS = 1000;

function imagesIn(parts: readonly ContentPart[]): number {
  return parts.filter(({ type }) => type === 'image_url').length;
}
