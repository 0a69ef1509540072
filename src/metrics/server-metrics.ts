/** All metrics of this server except those of generative AI and of the process. docs/metrics.md lists all. */
import type { Counts } from '../domain/conversations/conversation.ts';
import type { ErrorCode } from '../domain/errors.ts';
import {
  type CallReport,
  type CircuitState,
  type Metrics,
  type ModelKind,
  partEntries,
  TURN_PARTS,
  type TurnPart,
  type TurnReport,
} from '../domain/metrics.ts';
import { GenAiMetrics, type GenAiOptions } from './gen-ai.ts';
import { Counter, Gauge, Histogram, type Instrument, type Readings } from './instruments.ts';
import { ModelNames } from './model-names.ts';

/** OpenTelemetry's buckets of HTTP durations, with longer ones for streams. */
const REQUEST_SECONDS = [
  0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300,
];
const PART_SECONDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const WAIT_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const BATCH_UNITS = [1, 2, 5, 10, 25, 50, 100];

/** Other methods share one label, because callers can send any word. */
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

const CIRCUIT_VALUES: Readonly<Record<CircuitState, number>> = { closed: 0, half_open: 1, open: 2 };

/** Functions that read the values of gauges. */
export interface Readers {
  /** The number of running calls to the model. */
  generations(): number;
  journal(): { readonly turns: number; readonly bytes: number; readonly oldest: number | null };
  /** Wall clock, epoch milliseconds. */
  now(): number;
  isDatabaseUp(): boolean;
  /** Connections by state. */
  pool(): Readonly<Record<string, number>>;
  circuits(): Iterable<readonly [model: string, state: CircuitState]>;
  /** Export jobs by status; undefined while the database does not answer. */
  exportJobs(): Promise<Readonly<Record<string, number>> | undefined>;
}

export interface MetricsOptions extends GenAiOptions {
  readonly version: string;
  /** Whether the name may become a label: at most a fixed number of names do. */
  readonly admitModel: (kind: ModelKind, name: string) => boolean;
}

export class ServerMetrics implements Metrics {
  readonly #requestModels: ModelNames;
  readonly #genAi: GenAiMetrics;
  readonly #version: string;
  #openStreams = 0;

  readonly #requests = new Histogram(
    'http_server_request_duration_seconds',
    'Duration of HTTP requests until their response is closed, streams included',
    REQUEST_SECONDS,
    ['http_request_method', 'http_route', 'http_response_status_code'],
  );
  readonly #parts = new Histogram(
    'chat_turn_part_duration_seconds',
    'Where the time of turns went',
    PART_SECONDS,
    ['part'],
  );
  readonly #resumes = new Counter('chat_stream_resumes_total', 'Streams that were resumed');
  readonly #stops = new Counter('chat_stream_stops_total', 'Replies that were stopped by a caller');
  readonly #cache = new Counter('chat_cache_requests_total', 'Turns by what the response cache did', [
    'result',
  ]);
  readonly #replays = new Counter(
    'chat_idempotent_replays_total',
    'Requests that joined the turn of an earlier one with the same Idempotency-Key',
  );
  readonly #checkpoints = new Counter('chat_checkpoints_total', 'Running replies that were saved');
  readonly #batches = new Histogram(
    'chat_writer_batch_size',
    'Writes that shared a transaction',
    BATCH_UNITS,
  );
  readonly #waits = new Histogram(
    'chat_writer_wait_seconds',
    'Time that writes of turns waited for their transaction',
    WAIT_SECONDS,
  );
  readonly #rateLimited = new Counter('chat_rate_limited_total', 'Requests refused by a rate limit', [
    'policy',
  ]);
  readonly #fallbacks = new Counter(
    'chat_upstream_fallbacks_total',
    'Calls that went to the fallback model server, by the error of the first one',
    ['code'],
  );
  readonly #purgedConversations = new Counter('chat_purged_conversations_total', 'Conversations purged');
  readonly #purgedMessages = new Counter('chat_purged_messages_total', 'Messages purged');
  readonly #exportedRows = new Counter('chat_export_rows_total', 'Messages written to exports');
  readonly #slowCalls = new Counter('chat_slow_calls_total', 'Slow turns by the part that took longest', [
    'part',
  ]);
  readonly #upstreamErrors = new Counter(
    'chat_upstream_errors_total',
    'Attempts to call the model server that failed, repeated ones included',
    ['code'],
  );

  constructor({ admitModel, version, ...options }: MetricsOptions) {
    this.#version = version;
    this.#requestModels = new ModelNames((name) => admitModel('request', name));
    const responseModels = new ModelNames((name) => admitModel('response', name));
    this.#genAi = new GenAiMetrics(options, this.#requestModels, responseModels);
    // Counters that exist from the start can be used in rates from their first increase.
    for (const part of TURN_PARTS) this.#slowCalls.labels(part);
    for (const result of ['hit', 'miss', 'collapsed', 'bypass']) this.#cache.labels(result);
  }

  /** In the order of the exposition. */
  instruments(readers: Readers): Instrument[] {
    return [
      this.#requests,
      ...this.#genAi.instruments,
      this.#parts,
      new Gauge('chat_open_streams', 'Open event streams of replies', () => one(this.#openStreams)),
      new Gauge('chat_generations', 'Running calls to the model', () => one(readers.generations())),
      this.#resumes,
      this.#stops,
      this.#cache,
      this.#replays,
      this.#checkpoints,
      this.#batches,
      this.#waits,
      ...this.#stateGauges(readers),
      this.#rateLimited,
      this.#fallbacks,
      this.#purgedConversations,
      this.#purgedMessages,
      this.#exportedRows,
      this.#slowCalls,
      this.#upstreamErrors,
      new Gauge('chat_build_info', 'The version that runs', () => [[[this.#version], 1]], ['version']),
    ];
  }

  #stateGauges(readers: Readers): Instrument[] {
    const { journal, now, isDatabaseUp, pool, exportJobs } = readers;
    const age = () => {
      const { oldest } = journal();
      return oldest === null ? 0 : Math.max(0, now() - oldest) / 1000;
    };
    return [
      new Gauge('chat_journal_turns', 'Turns in the journal of this host', () => one(journal().turns)),
      new Gauge('chat_journal_bytes', 'Size of the journal of this host', () => one(journal().bytes)),
      new Gauge('chat_journal_oldest_seconds', 'Age of the oldest turn in the journal', () => one(age())),
      new Gauge('chat_database_up', 'Whether the database answers', () => one(isDatabaseUp() ? 1 : 0)),
      new Gauge('chat_database_pool_connections', 'Connections to the database', () => rows(pool()), [
        'state',
      ]),
      new Gauge(
        'chat_circuit_state',
        'Circuit breaker of the model: 0 closed, 1 half open, 2 open',
        () => this.#circuits(readers),
        ['model'],
      ),
      new Gauge(
        'chat_export_jobs',
        'Export jobs in the database',
        // The database is asked by scrapes only, not by each worker every few seconds.
        async (isScrape) => rows((isScrape && (await exportJobs())) || {}),
        ['status'],
      ),
    ];
  }

  /** Models that share a label have the worst of their states. */
  #circuits({ circuits }: Readers): Readings {
    const worst: Record<string, number> = {};
    for (const [model, state] of circuits()) {
      const label = this.#requestModels.label(model, false);
      worst[label] = Math.max(worst[label] ?? 0, CIRCUIT_VALUES[state]);
    }
    return rows(worst);
  }

  requestEnded(method: string, route: string | undefined, status: number, ms: number): void {
    const known = METHODS.has(method) ? method : '_OTHER';
    this.#requests.labels(known, route ?? '', String(status)).observe(ms / 1000);
  }

  rateLimited(policy: string): void {
    this.#rateLimited.labels(policy).add();
  }

  streamOpened(): void {
    this.#openStreams += 1;
  }

  streamClosed(): void {
    this.#openStreams -= 1;
  }

  streamResumed(): void {
    this.#resumes.add();
  }

  streamStopped(): void {
    this.#stops.add();
  }

  cacheUsed(result: 'hit' | 'miss' | 'collapsed' | 'bypass'): void {
    this.#cache.labels(result).add();
  }

  idempotentReplay(): void {
    this.#replays.add();
  }

  turnEnded(turn: TurnReport): void {
    this.#genAi.turnEnded(turn);
    for (const [part, ms] of partEntries(turn.parts)) this.#parts.labels(part).observe(ms / 1000);
  }

  slowCall(part: TurnPart): void {
    this.#slowCalls.labels(part).add();
  }

  callEnded(call: CallReport): void {
    this.#genAi.callEnded(call);
  }

  attemptFailed(code: ErrorCode): void {
    this.#upstreamErrors.labels(code).add();
  }

  fallbackCalled(code: ErrorCode): void {
    this.#fallbacks.labels(code).add();
  }

  checkpointSaved(): void {
    this.#checkpoints.add();
  }

  batchWritten(units: number): void {
    this.#batches.labels().observe(units);
  }

  writeWaited(ms: number): void {
    this.#waits.labels().observe(ms / 1000);
  }

  purged({ conversations, messages }: Counts): void {
    this.#purgedConversations.add(conversations);
    this.#purgedMessages.add(messages);
  }

  rowsExported(count: number): void {
    this.#exportedRows.add(count);
  }
}

function one(value: number): Readings {
  return [[[], value]];
}

function rows(values: Readonly<Record<string, number>>): Readings {
  return Object.entries(values).map(([label, value]) => [[label], value] as const);
}
