/** What this process reports about itself to its operator. Implementations never throw and cost no more than a count. */
import type { Counts, Usage } from './conversations/conversation.ts';
import type { ErrorCode } from './errors.ts';

/** The parts of a turn, in their order; together they are its whole time. */
export const TURN_PARTS = [
  /** From the arrival of the request to the start of the turn: body, key, limits. */
  'queue',
  'history',
  /** Until the request of the last attempt is on its connection; earlier attempts and their waits count. */
  'connect',
  'first_token',
  'generation',
  /** What the caller waited for the database alone. */
  'commit',
] as const;

export type TurnPart = (typeof TURN_PARTS)[number];

/** Parts that did not occur are missing. */
export type TurnPartTimes = Readonly<Partial<Record<TurnPart, number>>>;

/** In the order of the parts. */
export function* partEntries(parts: TurnPartTimes): Generator<readonly [part: TurnPart, ms: number]> {
  for (const part of TURN_PARTS) {
    const ms = parts[part];
    if (ms !== undefined) yield [part, ms];
  }
}

/** Names of models that become labels, of each kind. Callers choose names, so the number needs a limit. */
export const MAX_MODEL_NAMES = 50;

/** Whether a caller or the model server has named the model. */
export type ModelKind = 'request' | 'response';

export type CircuitState = 'closed' | 'half_open' | 'open';

/** Why a call or a turn did not end well; `cancelled`: it was stopped. */
export type FailureCode = ErrorCode | 'cancelled';

/** One call to the model server, retries included. */
export interface CallReport {
  readonly requestModel: string;
  /** The name in the response; undefined after an error. */
  readonly responseModel: string | undefined;
  readonly ms: number;
  /** Until the first text; undefined for whole replies. */
  readonly firstMs: number | undefined;
  /** Pieces of a streamed reply: its reads from the network. */
  readonly chunks: number;
  readonly usage: Usage | null;
  readonly failure: FailureCode | undefined;
}

/** One turn as its caller sees it. */
export interface TurnReport {
  readonly model: string;
  readonly ms: number;
  /** Until the first text could be sent; undefined for whole replies. */
  readonly firstMs: number | undefined;
  /** From the first text to the last; undefined unless this turn's own call has generated the reply. */
  readonly generationMs: number | undefined;
  readonly usage: Usage | null;
  readonly parts: TurnPartTimes;
  readonly failure: FailureCode | undefined;
}

export interface Metrics {
  /** @param route the template of its path; undefined: no route matches */
  requestEnded(method: string, route: string | undefined, status: number, ms: number): void;
  rateLimited(policy: string): void;
  streamOpened(): void;
  streamClosed(): void;
  streamResumed(): void;
  /** A reply was ended by its caller. */
  streamStopped(): void;
  cacheUsed(result: 'hit' | 'miss' | 'collapsed' | 'bypass'): void;
  idempotentReplay(): void;
  turnEnded(turn: TurnReport): void;
  /** @param part its longest */
  slowCall(part: TurnPart): void;
  callEnded(call: CallReport): void;
  /** An attempt failed, whether or not it is repeated. */
  attemptFailed(code: ErrorCode): void;
  /** A call went to the second model server. @param code why the first one did not reply */
  fallbackCalled(code: ErrorCode): void;
  checkpointSaved(): void;
  /** A transaction of the writer. */
  batchWritten(units: number): void;
  /** How long a turn waited for its transaction. */
  writeWaited(ms: number): void;
  purged(count: Counts): void;
  rowsExported(rows: number): void;
}

/** A metric: all its series. */
export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  /** Of the buckets of a histogram, without the last one, which has none. */
  readonly bounds?: readonly number[];
  readonly series: readonly Series[];
}

/**
 * Labels in the text format, without braces and without the worker's. One value; or of a histogram the count of each
 * bucket alone, then the sum of what was observed.
 */
export type Series = readonly [labels: string, values: readonly number[]];

/** The metrics of one worker. */
export interface WorkerSnapshot {
  readonly id: string;
  /** Its place among the workers of the host. While a worker replaces another one, both have the same. */
  readonly index: number;
  readonly families: readonly Family[];
}

export interface HostSnapshot {
  /** Of living workers, without the values of this one, by index, a replacing worker before the one that it replaces. */
  readonly workers: readonly WorkerSnapshot[];
  /** The counters of workers that ended. */
  readonly ended: readonly Family[];
}

/** The metrics of all workers of a host. Each worker changes its own; those of dead workers are added to `ended`. */
export interface SnapshotStore {
  readonly index: number;
  /** Rejects when they cannot be stored, soon when another process has the file locked. */
  save(families: readonly Family[]): Promise<void>;
  /** Rejects when they cannot be read. */
  read(): Promise<HostSnapshot>;
  /** Ids of the other workers. */
  others(): readonly string[];
  /** Adds this worker's counters to `ended`. Rejects when that cannot be stored. */
  end(families: readonly Family[]): Promise<void>;
  /** Whether the name may become a label: it has a place, or one was left. */
  admitModel(kind: ModelKind, name: string): boolean;
}
