/** The chat model behind any server that speaks OpenAI's chat completions. */
import type { ChatModel } from '../domain/model.ts';
import type { Log } from '../domain/runtime.ts';
import { Breaker, type BreakerOptions } from './breaker.ts';
import { completeOnce } from './complete.ts';
import type { ReplyLimits } from './limits.ts';
import { withRetries } from './retries.ts';
import { StreamedReply } from './streamed-reply.ts';
import { runAttempt } from './transport/attempt.ts';
import type { ClientOptions, ModelServerClient } from './transport/client.ts';
import { IdleTimeout } from './transport/idle-timeout.ts';
import { sendRequest } from './transport/send-request.ts';

/** Times are milliseconds. */
export interface ModelOptions extends ClientOptions, ReplyLimits {
  /** The whole of `complete()`, retries included; in `stream()` no retry begins later. */
  readonly timeoutMs: number;
  readonly maxRetries: number;
  /** The first wait before a retry, doubled each time. */
  readonly retryBaseMs?: number;
  /** Where it differs from what is good for a real model server. */
  readonly breaker?: Partial<BreakerOptions>;
}

const RETRY_BASE_MS = 500;
const REACHABLE_MS = 3000;

export function createChatModel(options: ModelOptions, log: Log): ChatModel & { close(): Promise<void> } {
  let loading: Promise<ModelServerClient> | undefined;
  // On the first call: the SDK takes a fifth of the CPU time of a start.
  const load = () => {
    loading ??= import('./transport/client.ts').then((client) => new client.ModelServerClient(options));
    return loading;
  };
  const breaker = new Breaker(log, options.breaker);
  const { timeoutMs, maxRetries, retryBaseMs: baseMs = RETRY_BASE_MS } = options;
  const planFor = (signal: AbortSignal, start: number) => ({
    maxRetries,
    baseMs,
    deadline: start + timeoutMs,
    signal,
    log,
  });

  return {
    complete(request, signal) {
      const start = performance.now();
      return withRetries(planFor(signal, start), () =>
        breaker.guard(signal, async () => {
          const left = Math.max(1, start + timeoutMs - performance.now());
          return completeOnce(await load(), request, { ...options, timeoutMs: left }, signal);
        }),
      );
    },

    stream(request, onDelta, signal) {
      const start = performance.now();
      return withRetries(planFor(signal, start), () =>
        breaker.guard(signal, (started) =>
          runAttempt(signal, async (attempt) => {
            const capAt = start + options.replyMaxMs;
            const on = { delta: onDelta, start: started };
            const reply = new StreamedReply(request.model, options, capAt, on, attempt);
            try {
              return await reply.read(
                await sendRequest(attempt, async (sent) => (await load()).chat(request, true, sent)),
              );
            } finally {
              reply.close();
            }
          }),
        ),
      );
    },

    async reachable(signal) {
      try {
        return await runAttempt(signal, async (attempt) => {
          const watch = new IdleTimeout(REACHABLE_MS, () => attempt.closeConnection());
          try {
            const answer = await (await load()).models(attempt.signal);
            attempt.drainResponse(answer);
            return (answer.statusCode ?? 500) < 500;
          } finally {
            watch.stop();
          }
        });
      } catch {
        return false;
      }
    },

    async close() {
      breaker.close();
      (await loading)?.close();
    },
  };
}
