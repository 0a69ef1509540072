import { AppError } from '../domain/errors.ts';
import type { Log } from '../domain/runtime.ts';
import { UpstreamError } from './errors.ts';

/** Milliseconds, but for `minCalls`. */
export interface BreakerOptions {
  /** The circuit opens by the results of this span. */
  readonly windowMs: number;
  /** It does not open before this many results. */
  readonly minCalls: number;
  /** It stays open for a random time between the two, so that processes do not probe together. */
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

/**
 * What an attempt says about the model server. `failed`: no connection, a response of 5xx, no first token in time, or
 * garbage in its place. `worked`: the first token came, or a response of 4xx (429 too: a busy server is not broken).
 * `unknown`: the caller stopped it, or it failed on this side.
 */
type Verdict = 'worked' | 'failed' | 'unknown';

interface Call {
  /** How often the circuit had opened when the call began. */
  readonly openings: number;
  readonly isProbe: boolean;
  settled: boolean;
}

/**
 * Rejects calls while a model server keeps failing before its first token. When the circuit has been open for its time,
 * one probe decides whether it closes. A result counts when it is known, not when its call began.
 */
export class CircuitBreaker {
  readonly #log: Log;
  readonly #options: BreakerOptions;
  #counts: RollingCounts;
  #open = false;
  #openings = 0;
  #probing = false;
  #probeAt = 0;

  constructor(log: Log, options: Partial<BreakerOptions> = {}) {
    this.#log = log;
    this.#options = { ...DEFAULTS, ...options };
    this.#counts = new RollingCounts(this.#options.windowMs);
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
        throw new AppError('upstream_busy', 'The model server keeps failing; try again later.', {
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
    // While the circuit is open only the probe counts, not calls that began before.
    if (call.openings !== this.#openings) return;
    if (call.isProbe) this.#settleProbe(verdict);
    else if (verdict !== 'unknown') this.#count(verdict === 'failed');
  }

  /** A failed probe is not logged: the attempt has its own line. */
  #settleProbe(verdict: Verdict): void {
    this.#probing = false;
    if (verdict === 'failed') this.#openCircuit();
    if (verdict !== 'worked') return;
    this.#open = false;
    this.#counts = new RollingCounts(this.#options.windowMs);
    this.#log.info({}, 'circuit breaker closed');
  }

  #count(failed: boolean): void {
    const { calls, failures } = this.#counts.add(failed, this.#options.now());
    if (!failed || calls < this.#options.minCalls || failures < calls * FAILURE_RATIO) return;
    const openMs = this.#openCircuit();
    this.#log.warn({ failures, calls, retry_in_ms: openMs }, 'circuit breaker opened');
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
  if (status === undefined) return error.retryable || code === 'upstream_timeout' ? 'failed' : 'unknown';
  // An empty reply is the model's doing, not the server's.
  if (code === 'upstream_empty') return 'worked';
  return status < 300 || status >= 500 ? 'failed' : 'worked';
}
