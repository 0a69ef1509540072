import type { ErrorCode } from '../domain/errors.ts';
import type { Log } from '../domain/runtime.ts';
import { pause } from '../util/timers.ts';
import { UpstreamError } from './errors.ts';
import type { ReportedError } from './reported-error.ts';

export interface RetryPlan {
  readonly maxRetries: number;
  /** The first wait, doubled each time. */
  readonly baseMs: number;
  /** On the monotonic clock (`performance.now()`): no retry begins later. */
  readonly deadline: number;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** Called with the code of each failed attempt. */
  readonly failed: (code: ErrorCode) => void;
  /**
   * Changes the request after an error that says what is wrong with it.
   * @returns log fields; undefined when the error has another cause
   */
  readonly adapt: (error: UpstreamError) => object | undefined;
  /** The fields of the log line for what the model server said. */
  readonly describe: (reported: ReportedError) => object;
}

const MAX_BACKOFF_MS = 8000;
/** After a longer `Retry-After` there is no retry; the caller gets it. */
const MAX_RETRY_AFTER_MS = 20_000;

/**
 * Repeats `attempt` after transient errors, and immediately when the request was adapted. Rejects with the AppError of
 * the last UpstreamError; other errors are not changed.
 */
export async function withRetries<T>(plan: RetryPlan, attempt: () => Promise<T>): Promise<T> {
  for (let tried = 1; ; ) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      plan.failed(error.error.code);
      const adapted = performance.now() < plan.deadline ? plan.adapt(error) : undefined;
      const wait = adapted || tried > plan.maxRetries ? undefined : waitFor(error, tried, plan);
      const { status, requestId, reason, reported } = error.details;
      const fields = {
        code: error.error.code,
        upstream_status: status,
        upstream_request_id: requestId,
        reason,
        ...(reported && plan.describe(reported)),
        attempt: tried,
      };
      if (adapted) {
        plan.log.info({ ...fields, ...adapted }, 'upstream rejected the request, will adapt it');
        plan.signal.throwIfAborted();
        continue;
      }
      if (wait === undefined) plan.log.warn(fields, 'upstream call failed');
      else plan.log.info({ ...fields, retry_in_ms: wait }, 'upstream call failed, will retry');
      if (wait === undefined) throw error.error;
      await pause(wait, plan.signal);
      plan.signal.throwIfAborted();
      tried += 1;
    }
  }
}

/** Milliseconds until the next attempt; undefined when the error is final. */
function waitFor(error: UpstreamError, tried: number, plan: RetryPlan): number | undefined {
  const { retryable, retryAfterMs } = error;
  if (!retryable || (retryAfterMs ?? 0) > MAX_RETRY_AFTER_MS) return undefined;
  const backoff = Math.min(plan.baseMs * 2 ** (tried - 1), MAX_BACKOFF_MS);
  // Half of the wait is random, so that calls that failed together do not retry together.
  const wait = Math.round(
    retryAfterMs === undefined
      ? backoff * (0.5 + Math.random() / 2)
      : retryAfterMs + (plan.baseMs * Math.random()) / 2,
  );
  return performance.now() + wait < plan.deadline ? wait : undefined;
}
