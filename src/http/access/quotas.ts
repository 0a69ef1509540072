import type { Request, Response } from 'express';
import type {
  Decision,
  Permit,
  PermitPool,
  Policy,
  RateLimiter,
  WindowPolicy,
} from '../../domain/access/limits.ts';
import { estimatedTokens } from '../../domain/conversations/context.ts';
import { AppError } from '../../domain/errors.ts';
import type { Metrics } from '../../domain/metrics.ts';
import type { Turn } from '../../services/chat/turn.ts';
import type { Quota, Route } from '../route.ts';
import type { Caller } from './caller.ts';
import { rateLimitHeaders, retryAfter } from './rate-limit-headers.ts';

/** Per caller; 0 is no limit. A key can have limits of its own for the first two. */
export interface QuotaSettings {
  readonly requestsPerMinute: number;
  /** Event streams open at the same time. */
  readonly openStreams: number;
  readonly tokensPerDay: number;
  readonly exportsPerHour: number;
  readonly authFailuresPerMinute: number;
}

const MINUTE = 60;

/** Applies the limits to requests and reports them in the response headers. */
export class Quotas {
  readonly #limiter: RateLimiter;
  readonly #permits: PermitPool;
  readonly #metrics: Pick<Metrics, 'rateLimited'>;
  readonly #requestsPerMinute: number;
  readonly #openStreams: number;
  readonly #tokens: WindowPolicy | undefined;
  readonly #exports: WindowPolicy | undefined;
  readonly #failures: WindowPolicy | undefined;

  constructor(
    settings: QuotaSettings,
    limiter: RateLimiter,
    permits: PermitPool,
    metrics: Pick<Metrics, 'rateLimited'>,
  ) {
    this.#limiter = limiter;
    this.#permits = permits;
    this.#metrics = metrics;
    this.#requestsPerMinute = settings.requestsPerMinute;
    this.#openStreams = settings.openStreams;
    this.#tokens = windowPolicy('tokens', settings.tokensPerDay, 24 * 60 * MINUTE, 'tokens');
    this.#exports = windowPolicy('exports', settings.exportsPerHour, 60 * MINUTE, 'requests');
    this.#failures = windowPolicy('auth-failures', settings.authFailuresPerMinute, MINUTE, 'requests');
  }

  /**
   * Counts a request against each of its policies in turn; after a refusal the others are only checked. An open
   * stream is counted until the response closes.
   * @throws AppError `rate_limited`
   */
  async admit(route: Route, request: Request, response: Response, caller: Caller): Promise<void> {
    // Health probes must never be limited.
    if (route.access === 'open') return;
    const { subject } = caller;
    const policies = this.#policiesOf(route, request, caller);
    const decisions: Decision[] = [];
    for (const policy of policies) {
      const decision = await this.#decide(policy, response, subject);
      decisions.push(decision);
      if (decision.allowed) continue;
      const others = policies.slice(decisions.length).filter(isWindowed);
      for (const other of others) decisions.push(await this.#limiter.check(other, subject));
      throw this.#reached(decisions);
    }
    const headers = Object.entries(rateLimitHeaders(decisions));
    for (const [name, value] of headers) response.setHeader(name, value);
  }

  /** Of a route that streams only some of its responses. @throws AppError `rate_limited` */
  async admitStream(response: Response, { key, subject }: Caller): Promise<void> {
    const policy = streamPolicy(key?.limits.openStreams ?? this.#openStreams);
    const decision = policy && (await this.#decide(policy, response, subject));
    if (decision && !decision.allowed) throw this.#reached([decision]);
  }

  /** @throws AppError `rate_limited` after too many invalid keys from that address */
  async checkFailures(address: string): Promise<void> {
    if (!this.#failures) return;
    const decision = await this.#limiter.check(this.#failures, address);
    if (!decision.allowed) throw this.#reached([decision]);
  }

  /** @throws AppError `rate_limited` */
  async countFailure(address: string): Promise<void> {
    if (!this.#failures) return;
    const decision = await this.#limiter.take(this.#failures, address);
    if (!decision.allowed) throw this.#reached([decision]);
  }

  /**
   * Charges a turn's tokens once they are known. Replies from the cache, joined generations, idempotent repeats and
   * replies that failed before their first text or reasoning are free.
   */
  meter(subject: string, message: string, turn: Turn): void {
    const policy = this.#tokens;
    if (!policy || turn.replayed || (turn.cache?.kind !== 'miss' && turn.cache?.kind !== 'bypass')) return;
    const charge = (tokens: number) => this.#limiter.charge(policy, subject, tokens);
    turn.result.then(
      ({ usage, content, reasoning }) =>
        charge(usage?.total_tokens ?? estimatedTokens(message + (reasoning ?? '') + content)),
      () => {
        const { text, reasoning } = turn.reply;
        if (text !== '' || reasoning) charge(estimatedTokens(message + (reasoning ?? '') + text));
      },
    );
  }

  #reached(decisions: readonly Decision[]): AppError {
    for (const { allowed, policy } of decisions) if (!allowed) this.#metrics.rateLimited(policy.name);
    return rateLimitError(decisions);
  }

  #policiesOf({ quotas = [] }: Route, { method }: Request, { key }: Caller): Policy[] {
    const policies: Policy[] = [];
    const requests = requestPolicy(key?.limits.requestsPerMinute ?? this.#requestsPerMinute);
    if (requests) policies.push(requests);
    if (this.#tokens && quotas.includes('tokens')) policies.push(this.#tokens);
    // HEAD makes no export.
    if (this.#exports && quotas.includes('exports') && method !== 'HEAD') policies.push(this.#exports);
    const streams = streamPolicy(key?.limits.openStreams ?? this.#openStreams);
    if (streams && quotas.includes('streams')) policies.push(streams);
    return policies;
  }

  async #decide(policy: Policy, response: Response, subject: string): Promise<Decision> {
    if (!isWindowed(policy)) return untilClosed(this.#permits.acquire(policy, subject), response);
    // The tokens of a reply are known only at its end, so a request is admitted while the quota is not used up.
    if (policy === this.#tokens) return this.#limiter.check(policy, subject);
    return this.#limiter.take(policy, subject);
  }
}

function requestPolicy(limit: number): WindowPolicy | undefined {
  return windowPolicy('requests', limit, MINUTE, 'requests');
}

function streamPolicy(limit: number): Policy | undefined {
  return limit === 0
    ? undefined
    : { name: 'streams', limit, windowSeconds: null, unit: 'concurrent-requests' };
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

/** A client that left while the store was asked has closed the response already. */
function untilClosed(permit: Permit, response: Response): Permit {
  if (response.closed) permit.release();
  else response.once('close', () => permit.release());
  return permit;
}

function rateLimitError(decisions: readonly Decision[]): AppError {
  const reached = decisions.filter(({ allowed }) => !allowed).map(({ policy }) => sentence(policy));
  const headers = rateLimitHeaders(decisions);
  return new AppError('rate_limited', reached.join('; '), { retryAfter: retryAfter(decisions), headers });
}

function sentence({ name, limit, windowSeconds, unit }: Policy): string {
  const quota = windowSeconds === null ? `${limit} open` : `${limit} ${unit} in ${windowSeconds} seconds`;
  return `The limit "${name}" is reached: ${quota}`;
}
