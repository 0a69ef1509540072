/** The port `ChatModel` for model servers with OpenAI's chat completions API. */
import type { IncomingMessage } from 'node:http';
import type {
  ChatModel,
  ListedModel,
  ModelOutcome,
  ModelRequest,
  ModelServerState,
} from '../domain/chat/model.ts';
import type { ErrorCode } from '../domain/errors.ts';
import type { CircuitState, Metrics } from '../domain/metrics.ts';
import type { Log } from '../domain/runtime.ts';
import { type BreakerOptions, CircuitBreakers } from './breaker.ts';
import type { UpstreamError } from './errors.ts';
import { readModels } from './models.ts';
import type { OptionalMember } from './refusals.ts';
import { completeOnce } from './reply/complete.ts';
import type { ReplyLimits } from './reply/limits.ts';
import { StreamedReply } from './reply/streamed-reply.ts';
import { loggedError, type ReportedError } from './reported-error.ts';
import { type AdaptedRequest, type RequestForm, RequestForms } from './request-form.ts';
import { type RetryPlan, withRetries } from './retries.ts';
import { type Attempt, runAttempt } from './transport/attempt.ts';
import type { ClientOptions, ModelServerClient } from './transport/client.ts';
import { IdleTimeout } from './transport/idle-timeout.ts';

/** Times are in milliseconds. */
export interface ModelOptions extends ClientOptions, ReplyLimits {
  /** Limit of `complete()`, retries included. In `stream()` no retry begins later. */
  readonly timeoutMs: number;
  readonly maxRetries: number;
  /** Members that no model of this server accepts. */
  readonly refused: readonly OptionalMember[];
  /** The first wait before a retry, doubled each time. */
  readonly retryBaseMs?: number;
  /** Whether the error messages of the model server are logged. */
  readonly logErrors: boolean;
  /** Differences from the defaults, for tests. */
  readonly breaker?: Partial<BreakerOptions>;
}

const RETRY_BASE_MS = 500;
const PROBE_MS = 3000;

interface Call {
  readonly client: ModelServerClient;
  readonly asked: AdaptedRequest;
  /** When the first attempt began, on the monotonic clock. */
  readonly startedAt: number;
  /** Called when the first token has come. */
  readonly accepted: () => void;
  /** As in {@link RetryPlan}. */
  readonly describe: RetryPlan['describe'];
}

export interface OpenedModel extends ChatModel {
  /** Loads what the first call needs, in small steps. Never rejects. */
  warmUp(): Promise<void>;
  /** The models of the model server. Rejects if it gives no list. */
  listModels(): Promise<readonly ListedModel[]>;
  /** The circuits of the models that were called recently. */
  circuits(): Iterable<readonly [model: string, state: CircuitState]>;
  close(): Promise<void>;
}

export function createChatModel(
  options: ModelOptions,
  log: Log,
  metrics?: Pick<Metrics, 'attemptFailed'>,
): OpenedModel {
  let opening: Promise<ModelServerClient> | undefined;
  // Imported on the first call, because loading the SDK takes a fifth of the CPU time of a start.
  const openClient = () => {
    opening ??= import('./transport/client.ts').then(({ ModelServerClient }) =>
      ModelServerClient.open(options),
    );
    return opening;
  };
  const circuits = new CircuitBreakers(log, options.breaker);
  const { timeoutMs, maxRetries, retryBaseMs: baseMs = RETRY_BASE_MS } = options;
  const secrets = [options.apiKey ?? '', ...Object.values(options.headers)];
  const forms = new RequestForms(options.refused);
  const retryPlan = (
    form: RequestForm,
    { messages }: ModelRequest,
    signal: AbortSignal,
    startedAt: number,
  ) => ({
    maxRetries,
    baseMs,
    deadline: startedAt + timeoutMs,
    signal,
    log,
    failed: (code: ErrorCode) => metrics?.attemptFailed(code),
    adapt: (error: UpstreamError) => form.adaptTo(error),
    describe: (reported: ReportedError) =>
      options.logErrors
        ? loggedError(reported, { secrets, prompts: messages.map(({ content }) => content) })
        : {},
  });

  /** Runs attempts until one succeeds, each with the form of the request that the model is known to accept. */
  async function call<T extends ModelOutcome>(
    request: ModelRequest,
    signal: AbortSignal,
    attempt: (call: Call) => Promise<T>,
  ): Promise<T> {
    const startedAt = performance.now();
    const form = forms.formOf(request);
    const plan = retryPlan(form, request, signal, startedAt);
    const { describe } = plan;
    const outcome = await withRetries(plan, () =>
      circuits.guard(request.model, signal, async (started) => {
        const client = await openClient();
        const accepted = () => {
          form.accept();
          started();
        };
        const result = await attempt({ client, asked: form.request, startedAt, accepted, describe });
        form.accept();
        return result;
      }),
    );
    return form.omitted > 0 ? { ...outcome, omitted: form.omitted } : outcome;
  }

  /** Requests the list of models, with a short timeout. */
  async function askModels<T>(
    signal: AbortSignal,
    read: (response: IncomingMessage, attempt: Attempt) => Promise<T>,
  ): Promise<T> {
    const client = await openClient();
    return runAttempt(signal, async (attempt) => {
      const timeout = new IdleTimeout(PROBE_MS, () => attempt.closeConnection());
      try {
        return await read(await client.models(attempt.signal), attempt);
      } finally {
        timeout.stop();
      }
    });
  }

  return {
    complete(request, signal, context) {
      return call(request, signal, async ({ client, asked, startedAt, describe }) => {
        const left = Math.max(1, startedAt + timeoutMs - performance.now());
        const limits = { ...options, timeoutMs: left };
        const { reply, error } = await completeOnce(client, asked, limits, signal, context);
        if (error) {
          const { reason, reported } = error.details;
          log.warn({ reason, ...(reported && describe(reported)) }, 'upstream reply incomplete');
        }
        return reply;
      });
    },

    stream(request, on, signal, context) {
      return call(request, signal, ({ client, asked, startedAt, accepted }) =>
        runAttempt(signal, async (attempt) => {
          const capAt = startedAt + options.replyMaxMs;
          const onStart = () => {
            accepted();
            context?.started?.();
          };
          const reply = new StreamedReply(request.model, options, capAt, on, context ?? {}, onStart, attempt);
          try {
            return await reply.read(await client.chat(asked, true, attempt, context));
          } finally {
            reply.close();
          }
        }),
      );
    },

    async probe(signal) {
      try {
        return await askModels(signal, async (response, attempt) => {
          attempt.drainResponse(response);
          return stateFor(response.statusCode ?? 500);
        });
      } catch {
        return 'down';
      }
    },

    listModels: () => askModels(new AbortController().signal, readModels),

    openCircuits: () => circuits.open,

    circuits: () => circuits.states(),

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

function stateFor(status: number): ModelServerState {
  if (status === 401 || status === 403) return 'refused';
  if (status === 404 || status === 405) return 'not_found';
  return status < 500 ? 'up' : 'down';
}
