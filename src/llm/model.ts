/** The chat model of any server with OpenAI's chat completions API. */
import type { ChatModel, ModelRequest } from '../domain/chat/model.ts';
import type { Log } from '../domain/runtime.ts';
import { type BreakerOptions, CircuitBreakers } from './breaker.ts';
import { completeOnce } from './reply/complete.ts';
import type { ReplyLimits } from './reply/limits.ts';
import { StreamedReply } from './reply/streamed-reply.ts';
import { loggedError, type ReportedError } from './reported-error.ts';
import { withRetries } from './retries.ts';
import { runAttempt } from './transport/attempt.ts';
import type { ClientOptions, ModelServerClient } from './transport/client.ts';
import { IdleTimeout } from './transport/idle-timeout.ts';

/** Times are milliseconds. */
export interface ModelOptions extends ClientOptions, ReplyLimits {
  /** Of `complete()`, retries included; in `stream()` no retry begins later. */
  readonly timeoutMs: number;
  readonly maxRetries: number;
  /** The first wait before a retry, doubled each time. */
  readonly retryBaseMs?: number;
  /** Whether the log has what the model server says about errors. */
  readonly logErrors: boolean;
  /** Differences from the defaults, for tests. */
  readonly breaker?: Partial<BreakerOptions>;
}

const RETRY_BASE_MS = 500;
const REACHABLE_MS = 3000;

export interface OpenedModel extends ChatModel {
  /** Loads what the first call needs, in small steps. Never rejects. */
  warmUp(): Promise<void>;
  close(): Promise<void>;
}

export function createChatModel(options: ModelOptions, log: Log): OpenedModel {
  let opening: Promise<ModelServerClient> | undefined;
  // On the first call: the SDK takes a fifth of the CPU time of a start.
  const openClient = () => {
    opening ??= import('./transport/client.ts').then(({ ModelServerClient }) =>
      ModelServerClient.open(options),
    );
    return opening;
  };
  const circuits = new CircuitBreakers(log, options.breaker);
  const { timeoutMs, maxRetries, retryBaseMs: baseMs = RETRY_BASE_MS } = options;
  const secrets = [options.apiKey ?? '', ...Object.values(options.headers)];
  const retryPlan = ({ messages }: ModelRequest, signal: AbortSignal, start: number) => ({
    maxRetries,
    baseMs,
    deadline: start + timeoutMs,
    signal,
    log,
    describe: (reported: ReportedError) =>
      options.logErrors
        ? loggedError(reported, { secrets, prompts: messages.map(({ content }) => content) })
        : {},
  });

  return {
    complete(request, signal) {
      const start = performance.now();
      const plan = retryPlan(request, signal, start);
      return withRetries(plan, () =>
        circuits.guard(request.model, signal, async () => {
          const client = await openClient();
          const left = Math.max(1, start + timeoutMs - performance.now());
          const { reply, error } = await completeOnce(
            client,
            request,
            { ...options, timeoutMs: left },
            signal,
          );
          if (error) {
            const { reason, reported } = error.details;
            log.warn({ reason, ...(reported && plan.describe(reported)) }, 'upstream reply incomplete');
          }
          return reply;
        }),
      );
    },

    stream(request, onDelta, signal) {
      const start = performance.now();
      return withRetries(retryPlan(request, signal, start), () =>
        circuits.guard(request.model, signal, async (started) => {
          const client = await openClient();
          return runAttempt(signal, async (attempt) => {
            const capAt = start + options.replyMaxMs;
            const on = { delta: onDelta, start: started };
            const reply = new StreamedReply(request.model, options, capAt, on, attempt);
            try {
              return await reply.read(await client.chat(request, true, attempt));
            } finally {
              reply.close();
            }
          });
        }),
      );
    },

    async reachable(signal) {
      try {
        const client = await openClient();
        return await runAttempt(signal, async (attempt) => {
          const timeout = new IdleTimeout(REACHABLE_MS, () => attempt.closeConnection());
          try {
            const response = await client.models(attempt.signal);
            attempt.drainResponse(response);
            return (response.statusCode ?? 500) < 500;
          } finally {
            timeout.stop();
          }
        });
      } catch {
        return false;
      }
    },

    openCircuits: () => circuits.open,

    async warmUp() {
      try {
        const { preloadSdk } = await import('./transport/preload.ts');
        await preloadSdk();
        await openClient();
      } catch {
        // The first call reports it.
      }
    },

    async close() {
      const opened = await opening?.catch(() => undefined);
      opened?.close();
    },
  };
}
