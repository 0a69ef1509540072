import type { Request, Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { Decision, Permit, PermitPool, Policy, RateLimiter, WindowPolicy } from '../../domain/limits.ts';
import type { Turn } from '../../services/chat/turn.ts';
import type { Quota, Route } from '../route.ts';
import { rateLimitHeaders, retryAfter } from './rate-limit-headers.ts';

/** Of each caller; 0: no limit. */
export interface QuotaSettings {
  readonly requestsPerMinute: number;
  /** Event streams open at once. */
  readonly openStreams: number;
  readonly tokensPerDay: number;
  readonly exportsPerHour: number;
  readonly authFailuresPerMinute: number;
}

interface Parts {
  readonly limiter: RateLimiter;
  readonly concurrency: PermitPool;
}

const MINUTE = 60;

/** How often callers may: counts their requests, and says in the reply how much is left. */
export class Quotas {
  readonly #parts: Parts;
  readonly #requests: WindowPolicy | undefined;
  readonly #tokens: WindowPolicy | undefined;
  readonly #exports: WindowPolicy | undefined;
  readonly #failures: WindowPolicy | undefined;
  readonly #streams: Policy | undefined;

  constructor(settings: QuotaSettings, parts: Parts) {
    this.#parts = parts;
    this.#requests = windowPolicy('requests', settings.requestsPerMinute, MINUTE, 'requests');
    this.#tokens = windowPolicy('tokens', settings.tokensPerDay, 24 * 60 * MINUTE, 'tokens');
    this.#exports = windowPolicy('exports', settings.exportsPerHour, 60 * MINUTE, 'requests');
    this.#failures = windowPolicy('auth-failures', settings.authFailuresPerMinute, MINUTE, 'requests');
    const limit = settings.openStreams;
    this.#streams =
      limit === 0 ? undefined : { name: 'streams', limit, windowSeconds: null, unit: 'concurrent-requests' };
  }

  /**
   * Counts a request by every policy that is for it, one after the other: what one of them refuses uses up nothing of
   * those after it. What is open at once is counted until the response closes.
   * @throws AppError `rate_limited`, at once or by rejection
   */
  admit(route: Route, request: Request, response: Response, subject: string): void | Promise<void> {
    // What is open to all is for probes, which must not be told that they ask too often.
    if (route.access === 'open') return;
    return this.#admit(this.#policiesOf(route, request), [], response, subject);
  }

  /** @throws AppError `rate_limited` when there were too many keys from there that are none */
  checkFailures(address: string): void {
    if (!this.#failures) return;
    const decision = this.#parts.limiter.peek(this.#failures, address);
    if (!decision.allowed) throw rateLimitError([decision]);
  }

  /** @throws AppError `rate_limited` */
  async countFailure(address: string): Promise<void> {
    if (!this.#failures) return;
    const decision = await this.#parts.limiter.take(this.#failures, address);
    if (!decision.allowed) throw rateLimitError([decision]);
  }

  /**
   * Counts what the model was asked for a turn, once it is known. What came from the cache, from a reply that somebody
   * else had asked for, or from a repetition is free, and so is a reply that failed before it began.
   */
  meter(subject: string, message: string, turn: Turn): void {
    const policy = this.#tokens;
    if (!policy || turn.replayed || (turn.cache?.kind !== 'miss' && turn.cache?.kind !== 'bypass')) return;
    const charge = (tokens: number) => this.#parts.limiter.charge(policy, subject, tokens);
    turn.result.then(
      ({ usage, content }) => charge(usage?.total_tokens ?? estimatedTokens(message + content)),
      () => {
        const { text } = turn.reply;
        if (text !== '') charge(estimatedTokens(message + text));
      },
    );
  }

  #policiesOf({ quotas = [] }: Route, { method }: Request): Policy[] {
    const policies: Policy[] = [];
    if (this.#requests) policies.push(this.#requests);
    if (this.#tokens && quotas.includes('tokens')) policies.push(this.#tokens);
    // HEAD makes no export.
    if (this.#exports && quotas.includes('exports') && method !== 'HEAD') policies.push(this.#exports);
    if (this.#streams && quotas.includes('streams')) policies.push(this.#streams);
    return policies;
  }

  /** @param decided about the first of the policies */
  #admit(
    policies: readonly Policy[],
    decided: Decision[],
    response: Response,
    subject: string,
  ): void | Promise<void> {
    for (const policy of policies.slice(decided.length)) {
      const decision = this.#decide(policy, response, subject);
      if (decision instanceof Promise) {
        return decision.then((known) => {
          decided.push(known);
          if (known.allowed) return this.#admit(policies, decided, response, subject);
          throw this.#refusal(policies, decided, subject);
        });
      }
      decided.push(decision);
      if (!decision.allowed) throw this.#refusal(policies, decided, subject);
    }
    const headers = Object.entries(rateLimitHeaders(decided) ?? {});
    for (const [name, value] of headers) response.setHeader(name, value);
  }

  #decide(policy: Policy, response: Response, subject: string): Decision | Promise<Decision> {
    const { limiter, concurrency } = this.#parts;
    if (isWindowed(policy)) {
      // Of what a reply will have cost nobody knows yet: it is let through as long as anything is left.
      return limiter.take(policy, subject, policy === this.#tokens ? 0 : 1);
    }
    const place = concurrency.acquire(policy, subject);
    return place instanceof Promise
      ? place.then((known) => untilClosed(known, response))
      : untilClosed(place, response);
  }

  /** Says of the policies that were not asked any more how they stand. */
  #refusal(policies: readonly Policy[], decided: readonly Decision[], subject: string): AppError {
    const others = policies.slice(decided.length).filter(isWindowed);
    return rateLimitError([...decided, ...others.map((policy) => this.#parts.limiter.peek(policy, subject))]);
  }
}

function windowPolicy(
  name: Quota | 'requests' | 'auth-failures',
  limit: number,
  windowSeconds: number,
  unit: Policy['unit'],
): WindowPolicy | undefined {
  return limit === 0 ? undefined : { name, limit, windowSeconds, unit };
}

function isWindowed(policy: Policy): policy is WindowPolicy {
  return policy.windowSeconds !== null;
}

/** However the response ends; its caller may have left while others were asked, and then nothing closes any more. */
function untilClosed(place: Permit, response: Response): Permit {
  if (response.closed) place.release();
  else response.once('close', () => place.release());
  return place;
}

function rateLimitError(decisions: readonly Decision[]): AppError {
  const reached = decisions.filter(({ allowed }) => !allowed).map(({ policy }) => sentence(policy));
  const headers = rateLimitHeaders(decisions) ?? {};
  return new AppError('rate_limited', reached.join('; '), { retryAfter: retryAfter(decisions), headers });
}

function sentence({ name, limit, windowSeconds, unit }: Policy): string {
  const what = windowSeconds === null ? `${limit} at once` : `${limit} ${unit} in ${windowSeconds} seconds`;
  return `The limit "${name}" is reached: ${what}`;
}

/** Where the model server does not say: four bytes a token is common for English, and Chinese comes close to it. */
function estimatedTokens(text: string): number {
  return Math.ceil(Buffer.byteLength(text) / 4);
}
