/** OpenTelemetry's metrics of generative AI, under their older and their newer names. */
import type { CallReport, FailureCode, TurnReport } from '../domain/metrics.ts';
import { Counter, type Distribution, Histogram, type Instrument } from './instruments.ts';
import type { ModelNames } from './model-names.ts';

/** The buckets of OpenTelemetry's semantic conventions, in seconds; those of `TOKENS` in tokens. */
const DURATION = Array.from({ length: 14 }, (_, n) => 2 ** n / 100);
const FIRST_TOKEN = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
const PER_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5];
const TOKENS = Array.from({ length: 14 }, (_, n) => 4 ** n);

export const OPERATION = 'chat';
/** The provider of the protocol. Which company runs a compatible server is not known here. */
export const PROVIDER = 'openai';

const COMMON = ['gen_ai_operation_name', 'gen_ai_provider_name', 'gen_ai_request_model'];
const CLIENT = [...COMMON, 'gen_ai_response_model', 'server_address'];

export interface GenAiOptions {
  /** The host of the model server. */
  readonly serverAddress: string;
  /** Whether values are also reported under the newer names. */
  readonly newNames: boolean;
}

/** `gen_ai_client_*`: calls to the model server; `gen_ai_server_*`: turns as their callers see them. */
export class GenAiMetrics {
  readonly #options: GenAiOptions;
  readonly #requestModels: ModelNames;
  readonly #responseModels: ModelNames;
  readonly #clientDuration = new Histogram(
    'gen_ai_client_operation_duration_seconds',
    'Duration of calls to the model server, retries included',
    DURATION,
    [...CLIENT, 'error_type'],
  );
  readonly #clientTokens = new Histogram(
    'gen_ai_client_token_usage',
    'Tokens that calls to the model server used, as it reports them',
    TOKENS,
    [...CLIENT, 'gen_ai_token_type'],
  );
  readonly #serverDuration = new Histogram(
    'gen_ai_server_request_duration_seconds',
    'Duration of turns as callers see them, from the request until the reply is stored',
    DURATION,
    [...COMMON, 'error_type'],
  );
  readonly #serverFirstToken = new Histogram(
    'gen_ai_server_time_to_first_token_seconds',
    'Time from the request to the first token of streamed replies',
    FIRST_TOKEN,
    COMMON,
  );
  readonly #serverPerToken = new Histogram(
    'gen_ai_server_time_per_output_token_seconds',
    'Time for each token after the first one of streamed replies',
    PER_TOKEN,
    COMMON,
  );
  readonly #serverTokens = new Histogram(
    'gen_ai_server_token_usage',
    'Tokens of the replies that callers received, cached ones included',
    TOKENS,
    [...COMMON, 'gen_ai_token_type'],
  );
  readonly #inference: InferenceMetrics | undefined;
  /** By requested model, then by the model that the response names. */
  readonly #calls = new Map<string, Map<string, Series>>();
  readonly #turns = new Map<string, Series>();

  constructor(options: GenAiOptions, requestModels: ModelNames, responseModels: ModelNames) {
    this.#options = options;
    this.#requestModels = requestModels;
    this.#responseModels = responseModels;
    this.#inference = options.newNames ? new InferenceMetrics() : undefined;
  }

  get instruments(): Instrument[] {
    return [
      this.#clientDuration,
      this.#clientTokens,
      this.#serverDuration,
      this.#serverFirstToken,
      this.#serverPerToken,
      this.#serverTokens,
      ...(this.#inference?.instruments ?? []),
    ];
  }

  callEnded(call: CallReport): void {
    const { requestModel, responseModel, usage, failure, ms } = call;
    const answered = responseModel !== undefined;
    const request = this.#requestModels.label(requestModel, answered);
    const response = answered ? this.#responseModels.label(responseModel, true) : '';
    const series = this.#callSeries(request, response);
    durationIn(series, this.#clientDuration, failure).observe(ms / 1000);
    if (usage) {
      series.input ??= this.#clientTokens.labels(...series.labels, 'input');
      series.output ??= this.#clientTokens.labels(...series.labels, 'output');
      series.input.observe(usage.prompt_tokens);
      series.output.observe(usage.completion_tokens);
    }
    this.#inference?.callEnded(call, series.labels);
  }

  turnEnded({ model, ms, firstMs, generationMs, usage, failure }: TurnReport): void {
    const series = this.#turnSeries(this.#requestModels.label(model, failure === undefined));
    const { labels } = series;
    durationIn(series, this.#serverDuration, failure).observe(ms / 1000);
    if (firstMs !== undefined) {
      series.first ??= this.#serverFirstToken.labels(...labels);
      series.first.observe(firstMs / 1000);
    }
    if (!usage) return;
    series.input ??= this.#serverTokens.labels(...labels, 'input');
    series.output ??= this.#serverTokens.labels(...labels, 'output');
    series.input.observe(usage.prompt_tokens);
    series.output.observe(usage.completion_tokens);
    if (generationMs === undefined || usage.completion_tokens < 2) return;
    series.perToken ??= this.#serverPerToken.labels(...labels);
    series.perToken.observe(generationMs / 1000 / (usage.completion_tokens - 1));
  }

  #callSeries(request: string, response: string): Series {
    const byResponse = this.#calls.get(request) ?? new Map<string, Series>();
    this.#calls.set(request, byResponse);
    let series = byResponse.get(response);
    if (!series) {
      series = { labels: [OPERATION, PROVIDER, request, response, this.#options.serverAddress] };
      byResponse.set(response, series);
    }
    return series;
  }

  #turnSeries(request: string): Series {
    let series = this.#turns.get(request);
    if (!series) {
      series = { labels: [OPERATION, PROVIDER, request] };
      this.#turns.set(request, series);
    }
    return series;
  }
}

/**
 * The instruments of one model. They are looked up once, because a look-up by all labels takes longer than an
 * observation.
 */
interface Series {
  readonly labels: readonly string[];
  duration?: Distribution;
  first?: Distribution;
  perToken?: Distribution;
  input?: Distribution;
  output?: Distribution;
}

function durationIn(series: Series, histogram: Histogram, failure: FailureCode | undefined): Distribution {
  if (failure) return histogram.labels(...series.labels, failure);
  series.duration ??= histogram.labels(...series.labels, '');
  return series.duration;
}

/** The metrics `gen_ai.client.inference.*`, which are the newer names. */
class InferenceMetrics {
  readonly #duration = new Histogram(
    'gen_ai_client_inference_duration_seconds',
    'Duration of calls to the model server, retries included',
    DURATION,
    [...CLIENT, 'error_type'],
  );
  readonly #firstChunk = new Histogram(
    'gen_ai_client_inference_time_to_first_chunk_seconds',
    'Time from the call to the first chunk of streamed replies',
    FIRST_TOKEN,
    CLIENT,
  );
  readonly #perChunk = new Histogram(
    'gen_ai_client_inference_time_per_output_chunk_seconds',
    'Mean time between the chunks of a streamed reply, once for each reply',
    PER_TOKEN,
    CLIENT,
  );
  readonly #input = new Counter(
    'gen_ai_client_inference_usage_input_tokens_total',
    'Input tokens that calls to the model server used',
    [...CLIENT, 'gen_ai_token_modality'],
  );
  readonly #output = new Counter(
    'gen_ai_client_inference_usage_output_tokens_total',
    'Output tokens that calls to the model server used',
    [...CLIENT, 'gen_ai_token_modality'],
  );
  readonly #inputs = new Histogram(
    'gen_ai_client_inference_operation_input_tokens',
    'Input tokens of each call to the model server',
    TOKENS,
    CLIENT,
  );
  readonly #outputs = new Histogram(
    'gen_ai_client_inference_operation_output_tokens',
    'Output tokens of each call to the model server',
    TOKENS,
    CLIENT,
  );

  get instruments(): Instrument[] {
    return [
      this.#duration,
      this.#firstChunk,
      this.#perChunk,
      this.#input,
      this.#output,
      this.#inputs,
      this.#outputs,
    ];
  }

  callEnded({ ms, firstMs, chunks, usage, failure }: CallReport, labels: readonly string[]): void {
    this.#duration.labels(...labels, failure ?? '').observe(ms / 1000);
    if (firstMs !== undefined) {
      this.#firstChunk.labels(...labels).observe(firstMs / 1000);
      if (chunks > 1) this.#perChunk.labels(...labels).observe((ms - firstMs) / 1000 / (chunks - 1));
    }
    if (!usage) return;
    this.#input.labels(...labels, 'unknown').add(usage.prompt_tokens);
    this.#output.labels(...labels, 'unknown').add(usage.completion_tokens);
    this.#inputs.labels(...labels).observe(usage.prompt_tokens);
    this.#outputs.labels(...labels).observe(usage.completion_tokens);
  }
}
