import CircuitBreaker from 'opossum';
import { AppError } from '../domain/errors.ts';
import type { Log } from '../domain/runtime.ts';
import { UpstreamError } from './errors.ts';

/** Milliseconds, but for `minCalls`. */
export interface BreakerOptions {
  /** What came of the calls of this span decides. */
  readonly windowMs: number;
  /** Fewer results say nothing. */
  readonly minCalls: number;
  /** How long the model server is left alone: a time between the two by chance, so that processes do not come together. */
  readonly openMinMs: number;
  readonly openMaxMs: number;
}

const DEFAULTS: BreakerOptions = { windowMs: 10_000, minCalls: 10, openMinMs: 5000, openMaxMs: 10_000 };

/** It opens when more than so many of a hundred failed: at half of them, that is. */
const FAILED_PERCENT = 49.99;
/** Few, because adding them up is all that a failure costs. */
const BUCKETS = 5;

/**
 * What an attempt says about the model server. `failed`: no connection, an answer of 5xx, no first token in time, or
 * garbage in its place. `worked`: the first token came, or an answer that refuses this one request (4xx; 429 too: a
 * busy server is not a broken one, and `Retry-After` says when to come back). `unknown`: it was stopped, or failed here.
 */
type Verdict = 'worked' | 'failed' | 'unknown';

interface Pass {
  /** Counts how often the circuit had opened when the attempt began. */
  readonly openings: number;
  readonly probe: boolean;
  settled: boolean;
}

/**
 * Leaves a model server alone that keeps failing before its first token. Opossum keeps the counts and the state, but
 * gets each attempt only when its verdict is known: it would count a start and a failure half a minute later in
 * different windows, and an attempt that its caller stopped as a success.
 */
export class Breaker {
  readonly #circuit: CircuitBreaker<[failed: boolean], void>;
  readonly #log: Log;
  #openings = 0;
  #probing = false;
  /** When the next probe may go, on the monotonic clock. */
  #probeAt = 0;

  constructor(log: Log, options: Partial<BreakerOptions> = {}) {
    this.#log = log;
    const { windowMs, minCalls, openMinMs, openMaxMs } = { ...DEFAULTS, ...options };
    const pause = () => Math.round(openMinMs + (openMaxMs - openMinMs) * Math.random());
    const settings = {
      timeout: false as const,
      errorThresholdPercentage: FAILED_PERCENT,
      volumeThreshold: minCalls,
      rollingCountTimeout: windowMs,
      rollingCountBuckets: BUCKETS,
      rollingPercentilesEnabled: false,
      enableSnapshots: false,
      resetTimeout: pause(),
    };
    this.#circuit = new CircuitBreaker(settle, settings);
    this.#circuit.on('open', () => {
      this.#opened(settings.resetTimeout);
      // Opossum has taken this pause already and reads the next one when it opens again.
      settings.resetTimeout = pause();
    });
    this.#circuit.on('close', () => this.#closed());
  }

  /**
   * Runs one attempt, unless the circuit is open. `work` must call `started` when the first token comes; what happens
   * after that is no matter of this.
   * @throws AppError `upstream_busy` at once while the circuit is open
   */
  async guard<T>(signal: AbortSignal, work: (started: () => void) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const pass = this.#enter();
    const started = () => this.#settle(pass, 'worked');
    try {
      const result = await work(started);
      started();
      return result;
    } catch (error) {
      this.#settle(pass, verdictOn(error));
      throw error;
    }
  }

  /** Ends its timers. Attempts pass from then on. */
  close(): void {
    this.#circuit.shutdown();
  }

  #enter(): Pass {
    const shut = !this.#circuit.closed && !this.#circuit.isShutdown;
    const probe = shut && this.#circuit.halfOpen && !this.#probing;
    if (shut && !probe) {
      const retryAfter = Math.max(1, Math.ceil((this.#probeAt - performance.now()) / 1000));
      throw new AppError('upstream_busy', 'The model server keeps failing; it is asked again in a moment.', {
        retryAfter,
      });
    }
    if (probe) this.#probing = true;
    return { openings: this.#openings, probe, settled: false };
  }

  #settle(pass: Pass, verdict: Verdict): void {
    if (pass.settled) return;
    pass.settled = true;
    // What began before the circuit opened is old news; only the probe tells what is now.
    if (pass.openings !== this.#openings) return;
    if (verdict !== 'unknown') this.#circuit.fire(verdict === 'failed').catch(() => {});
    else if (pass.probe) this.#probing = false;
  }

  #opened(pauseMs: number): void {
    // A probe that fails opens the circuit again: the log has its own line for the attempt.
    if (!this.#probing) {
      const { failures, fires } = this.#circuit.stats;
      const fields = { failures, calls: fires, retry_in_ms: pauseMs };
      this.#log.warn(fields, 'the model server keeps failing; it is left alone for a while');
    }
    this.#openings += 1;
    this.#probing = false;
    this.#probeAt = performance.now() + pauseMs;
  }

  #closed(): void {
    this.#probing = false;
    // Else the failures from before would open it again with the next one.
    for (const bucket of this.#circuit.status.window) {
      bucket.fires = 0;
      bucket.failures = 0;
    }
    this.#log.info({}, 'the model server answers again');
  }
}

async function settle(failed: boolean): Promise<void> {
  if (failed) throw new Error('failed');
}

function verdictOn(error: unknown): Verdict {
  if (!(error instanceof UpstreamError)) return 'unknown';
  const { status } = error.details;
  const { code } = error.error;
  // Without an answer: what is worth no retry and is no timeout was never sent.
  if (status === undefined) return error.retryable || code === 'upstream_timeout' ? 'failed' : 'unknown';
  // A reply that is whole and empty is the model's own.
  if (code === 'upstream_empty') return 'worked';
  return status < 300 || status >= 500 ? 'failed' : 'worked';
}
