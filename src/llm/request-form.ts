/** Finds the form of a request that its model accepts. */
import { LRUCache } from 'lru-cache';
import type { ModelRequest } from '../domain/chat/model.ts';
import { withoutOldestTurns } from '../domain/conversations/context.ts';
import type { UpstreamError, UpstreamErrorDetails } from './errors.ts';
import {
  isReplyLimitTooLarge,
  isTooLong,
  type OptionalMember,
  refusedMember,
  shareThatFits,
} from './refusals.ts';

/** A request, and the members that its model refuses. */
export interface AdaptedRequest extends ModelRequest {
  readonly refused: ReadonlySet<OptionalMember>;
}

/** The members of the body that can be left out. A refused `max_tokens` is sent by its newer name. */
export function optionalMembers(
  { refused, parameters: { temperature, max_tokens }, user }: AdaptedRequest,
  stream: boolean,
): Partial<Record<OptionalMember, unknown>> {
  const limit = refused.has('max_tokens') ? 'max_completion_tokens' : 'max_tokens';
  return {
    ...(temperature !== undefined && !refused.has('temperature') && { temperature }),
    ...(max_tokens !== undefined && !refused.has(limit) && { [limit]: max_tokens }),
    ...(user !== undefined && !refused.has('user') && { user }),
    ...(stream && !refused.has('stream_options') && { stream_options: { include_usage: true } }),
  };
}

/** Callers choose the names of models. */
const MAX_MODELS = 500;
const MAX_SHORTENINGS = 3;
/**
 * How much of the model's limit is filled. The rest is room for the next turns, which would be refused again otherwise.
 */
const FILL_SHARE = 0.9;

/** Which members the models of one model server refuse: those of the settings, and those learned from its errors. */
export class RequestForms {
  readonly #always: ReadonlySet<OptionalMember>;
  readonly #learned = new LRUCache<string, ReadonlySet<OptionalMember>>({ max: MAX_MODELS });

  constructor(refused: readonly OptionalMember[]) {
    this.#always = new Set(refused);
  }

  formOf(request: ModelRequest): RequestForm {
    const { model } = request;
    const learn = (member: OptionalMember) => {
      this.#learned.set(model, new Set([...this.#refusedBy(model), member]));
    };
    return new RequestForm(request, this.#refusedBy(model), learn);
  }

  #refusedBy(model: string): ReadonlySet<OptionalMember> {
    return this.#learned.get(model) ?? this.#always;
  }
}

/** One request. It is changed after each error in which the model server says what it refuses. */
export class RequestForm {
  readonly #original: ModelRequest;
  readonly #learn: (refused: OptionalMember) => void;
  readonly #learned: OptionalMember[] = [];
  #request: AdaptedRequest;
  #shortenings = 0;
  #accepted = false;

  constructor(
    request: ModelRequest,
    refused: ReadonlySet<OptionalMember>,
    learn: (refused: OptionalMember) => void,
  ) {
    this.#original = request;
    this.#request = { ...request, refused };
    this.#learn = learn;
  }

  get request(): AdaptedRequest {
    return this.#request;
  }

  /** How many messages were left out, the oldest after the system prompt. */
  get omitted(): number {
    return this.#original.messages.length - this.#request.messages.length;
  }

  /**
   * Called when the model server has begun to reply. The request is then no longer changed, and the refused members are
   * remembered for the model. Not before, because an error may name a member that is not its cause.
   */
  accept(): void {
    if (this.#accepted) return;
    this.#accepted = true;
    for (const member of this.#learned) this.#learn(member);
  }

  /**
   * Changes the request so that it can be repeated.
   * @returns what was changed, for the log; undefined when the error has another cause
   */
  adaptTo({ details: error }: UpstreamError): object | undefined {
    if (this.#accepted) return undefined;
    if (!isTooLong(error)) return this.#withoutMember(error, true);
    if (!isReplyLimitTooLarge(error)) return this.#shorten(error);
    return this.#withoutMember(error, false) ?? this.#shorten(error);
  }

  #shorten(error: UpstreamErrorDetails): object | undefined {
    if (this.#shortenings === MAX_SHORTENINGS) return undefined;
    this.#shortenings += 1;
    const isLast = this.#shortenings === MAX_SHORTENINGS;
    const share = shareThatFits(error);
    const messages = withoutOldestTurns(this.#request.messages, isLast ? 0 : share && share * FILL_SHARE);
    if (!messages) return undefined;
    this.#request = { ...this.#request, messages };
    return { omitted_messages: this.omitted };
  }

  #withoutMember(error: UpstreamErrorDetails, remember: boolean): object | undefined {
    const member = refusedMember(error, optionalMembers(this.#request, true));
    if (!member) return undefined;
    this.#request = { ...this.#request, refused: new Set([...this.#request.refused, member]) };
    if (remember) this.#learned.push(member);
    return { refused_member: member };
  }
}
