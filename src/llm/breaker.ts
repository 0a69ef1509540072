import { LRUCache } from 'lru-cache';
import { AppError } from '../domain/errors.ts';
import type { CircuitState } from '../domain/metrics.ts';
import type { Log } from '../domain/runtime.ts';
import { UpstreamError } from './errors.ts';
import { isTooLong } from './refusals.ts';

/** All times are in milliseconds. */
export interface BreakerOptions {
  /** Only results of this last period count. */
  readonly windowMs: number;
  /** The circuit does not open before this many results. */
  readonly minCalls: number;
  /** The circuit stays open for a random time between the two, so that processes do not probe at the same time. */
  readonly openMinMs: number;
  readonly openMaxMs: number;
  /** A monotonic clock. */
  readonly now: () => number;
}

const DEFAULTS: BreakerOptions = {
  windowMs: 10_000,
  minCalls: 10,
  openMinMs: 5000,
  openMaxMs: 10_000,
  now: () => performance.now(),
};
/** The circuit opens when this share of the calls failed. */
const FAILURE_RATIO = 0.5;
const BUCKETS = 5;
/** Callers choose the names of models, so the number of circuits is limited. The least recently used one is dropped. */
const MAX_CIRCUITS = 500;

/**
 * How the circuit counts an attempt. `failed`: no connection, a response of 5xx, or no first token in time. `worked`:
 * any other response, also 429, because a server that limits requests is healthy. `unknown`: the caller stopped the
 * attempt, or this server caused the failure; it is not counted.
 */
type Verdict = 'worked' | 'failed' | 'unknown';

interface Call {
  /** How often the circuit had opened when the call began. */
  readonly openings: number;
  readonly isProbe: boolean;
  settled: boolean;
}

/** The circuits of one model server: one per model, so that a model that fails does not block the others. */
export class CircuitBreakers {
  readonly #log: Log;
  readonly #options: Partial<BreakerOptions>;
  readonly #circuits = new LRUCache<string, CircuitBreaker>({ max: MAX_CIRCUITS });

  constructor(log: Log, options: Partial<BreakerOptions> = {}) {
    this.#log = log;
    this.#options = options;
  }

  /** The models whose circuit is open. */
  get open(): string[] {
    return [...this.#circuits.entries()].filter(([, circuit]) => circuit.isOpen).map(([model]) => model);
  }

  /** The state of each circuit that was used lately. */
  *states(): Generator<readonly [model: string, state: CircuitState]> {
    for (const [model, circuit] of this.#circuits.entries()) yield [model, circuit.state];
  }

  /** Runs one attempt on the circuit of `model`, see {@link CircuitBreaker.guard}. */
  guard<T>(model: string, signal: AbortSignal, work: (started: () => void) => Promise<T>): Promise<T> {
    let circuit = this.#circuits.get(model);
    if (!circuit) {
      circuit = new CircuitBreaker(model, this.#log, this.#options);
      this.#circuits.set(model, circuit);
    }
    return circuit.guard(signal, work);
  }
}

/**
 * Rejects calls while a model keeps failing before its first token. After the open time, one call is the probe that
 * decides whether the circuit closes. A result counts at the time when it is known, not when its call began.
 */
export class CircuitBreaker {
  readonly #model: string;
  readonly #log: Log;
  readonly #options: BreakerOptions;
  #counts: RollingCounts;
  #open = false;
  #openings = 0;
  #probing = false;
  #probeAt = 0;

  constructor(model: string, log: Log, options: Partial<BreakerOptions> = {}) {
    this.#model = model;
    this.#log = log;
    this.#options = { ...DEFAULTS, ...options };
    this.#counts = new RollingCounts(this.#options.windowMs);
  }

  /** `half_open`: the next call is the probe, or the probe is running. */
  get state(): CircuitState {
    if (!this.#open) return 'closed';
    return this.#probing || this.#options.now() >= this.#probeAt ? 'half_open' : 'open';
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /**
   * Runs one attempt, unless the circuit is open. `work` calls `started` when the first token comes; later errors do
   * not count.
   * @throws AppError `upstream_busy` while the circuit is open
   */
  async guard<T>(signal: AbortSignal, work: (started: () => void) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const call = this.#admit();
    const started = () => this.#settle(call, 'worked');
    try {
      const result = await work(started);
      started();
      return result;
    } catch (error) {
      this.#settle(call, verdictOn(error));
      throw error;
    }
  }

  #admit(): Call {
    if (this.#open) {
      const waitMs = this.#probeAt - this.#options.now();
      if (this.#probing || waitMs > 0) {
        const retryAfter = Math.max(1, Math.ceil(waitMs / 1000));
        throw new AppError('upstream_busy', 'The model keeps failing; try again later, or use another one.', {
          retryAfter,
        });
      }
      this.#probing = true;
    }
    return { openings: this.#openings, isProbe: this.#open, settled: false };
  }

  #settle(call: Call, verdict: Verdict): void {
    if (call.settled) return;
    call.settled = true;
    // While the circuit is open only the probe counts, not calls that began before it opened.
    if (call.openings !== this.#openings) return;
    if (call.isProbe) this.#settleProbe(verdict);
    else if (verdict !== 'unknown') this.#count(verdict === 'failed');
  }

  /** Does not log a failed probe, because the failed attempt is logged. */
  #settleProbe(verdict: Verdict): void {
    this.#probing = false;
    if (verdict === 'failed') this.#openCircuit();
    if (verdict !== 'worked') return;
    this.#open = false;
    this.#counts = new RollingCounts(this.#options.windowMs);
    this.#log.info({ model: this.#model }, 'circuit breaker closed');
  }

  #count(failed: boolean): void {
    const { calls, failures } = this.#counts.add(failed, this.#options.now());
    if (!failed || calls < this.#options.minCalls || failures < calls * FAILURE_RATIO) return;
    const openMs = this.#openCircuit();
    const fields = { model: this.#model, failures, calls, retry_in_ms: openMs };
    this.#log.warn(fields, 'circuit breaker opened');
  }

  #openCircuit(): number {
    const { openMinMs, openMaxMs, now } = this.#options;
    const openMs = Math.round(openMinMs + (openMaxMs - openMinMs) * Math.random());
    this.#open = true;
    this.#openings += 1;
    this.#probeAt = now() + openMs;
    return openMs;
  }
}

/** Counts the calls of the last `windowMs` in buckets of equal length. */
class RollingCounts {
  readonly #bucketMs: number;
  readonly #buckets: { readonly index: number; calls: number; failures: number }[] = [];

  constructor(windowMs: number) {
    this.#bucketMs = windowMs / BUCKETS;
  }

  /** @returns the counts of the window, this call included */
  add(failed: boolean, now: number): { calls: number; failures: number } {
    const index = Math.floor(now / this.#bucketMs);
    while ((this.#buckets[0]?.index ?? index) <= index - BUCKETS) this.#buckets.shift();
    if (this.#buckets.at(-1)?.index !== index) this.#buckets.push({ index, calls: 0, failures: 0 });
    const total = { calls: 0, failures: 0 };
    for (const bucket of this.#buckets) {
      if (bucket.index === index) {
        bucket.calls += 1;
        if (failed) bucket.failures += 1;
      }
      total.calls += bucket.calls;
      total.failures += bucket.failures;
    }
    return total;
  }
}

function verdictOn(error: unknown): Verdict {
  if (!(error instanceof UpstreamError)) return 'unknown';
  const { status } = error.details;
  const { code } = error.error;
  // Without a response, an error that is neither retryable nor a timeout means that nothing was sent.
  if (code === 'upstream_timeout') return 'failed';
  // Some servers report a request that is too long as 500.
  if (isTooLong(error.details)) return 'worked';
  if (status === undefined) return error.retryable ? 'failed' : 'unknown';
  return status >= 500 ? 'failed' : 'worked';
}
