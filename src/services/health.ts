import type { ChatModel, ModelServerState } from '../domain/chat/model.ts';
import type { PendingTurns } from '../domain/chat/turns.ts';
import type { ConversationRepository } from '../domain/conversations/conversation.ts';
import { within } from '../util/timers.ts';

/** Probes are frequent, and calls to the model server may be counted by its provider. */
const UPSTREAM_FRESH_MS = 10_000;
const UPSTREAM_TIMEOUT_MS = 3000;
/** Requests share one check of the database, however many come. */
const DATABASE_FRESH_MS = 1000;
/** Probes usually time out after a second, and the state of the model server does not affect readiness. */
const PROBE_WAIT_MS = 500;
/** Callers choose the names of models. */
const MAX_OPEN_CIRCUITS = 20;

type DatabaseState = 'up' | 'read_only' | 'down';

export interface HealthReport {
  /** Whether this process should get requests. Does not depend on the model server. */
  readonly ready: boolean;
  readonly stopping: boolean;
  /** `read_only`: reads work, and writes fail. */
  readonly database: DatabaseState;
  readonly upstream: 'demo' | ModelServerState;
  /** Some of the models that are not called at present, see {@link ChatModel.openCircuits}. */
  readonly openCircuits: readonly string[];
  readonly journal: ReturnType<PendingTurns['state']>;
}

/** Whether database and model server respond. */
export class HealthService {
  readonly #conversations: Pick<ConversationRepository, 'check'>;
  readonly #model: Pick<ChatModel, 'probe' | 'openCircuits'>;
  readonly #pending: Pick<PendingTurns, 'state'>;
  readonly #demo: boolean;
  readonly #isWritable: () => Promise<boolean>;
  #stopping = false;
  #upstream: { at: number; state: Promise<ModelServerState> } | undefined;
  #database: Promise<DatabaseState> | undefined;
  #lastUpstream: ModelServerState = 'down';

  constructor(
    conversations: Pick<ConversationRepository, 'check'>,
    model: Pick<ChatModel, 'probe' | 'openCircuits'>,
    pending: Pick<PendingTurns, 'state'>,
    demo: boolean,
    isWritable: () => Promise<boolean>,
  ) {
    this.#pending = pending;
    this.#conversations = conversations;
    this.#model = model;
    this.#demo = demo;
    this.#isWritable = isWritable;
  }

  /** Reports not ready from now on, so that load balancers send no new requests. */
  stop(): void {
    this.#stopping = true;
  }

  async report(): Promise<HealthReport> {
    const [database, upstream] = await Promise.all([this.#databaseState(), this.#upstreamState()]);
    return {
      ready: database === 'up' && !this.#stopping,
      stopping: this.#stopping,
      database,
      upstream: this.#demo ? 'demo' : upstream,
      openCircuits: this.#model.openCircuits().slice(0, MAX_OPEN_CIRCUITS),
      journal: this.#pending.state(),
    };
  }

  /** The check in flight, or its result for `DATABASE_FRESH_MS`. */
  #databaseState(): Promise<DatabaseState> {
    this.#database ??= this.#checkDatabase();
    return this.#database;
  }

  async #checkDatabase(): Promise<DatabaseState> {
    try {
      await this.#conversations.check();
      return (await this.#isWritable()) ? 'up' : 'read_only';
    } catch {
      return 'down';
    } finally {
      setTimeout(() => {
        this.#database = undefined;
      }, DATABASE_FRESH_MS).unref();
    }
  }

  /** The last known state when the model server is slow. */
  #upstreamState(): Promise<ModelServerState> {
    const now = performance.now();
    if (!this.#upstream || now - this.#upstream.at > UPSTREAM_FRESH_MS) {
      const state = this.#model.probe(AbortSignal.timeout(UPSTREAM_TIMEOUT_MS));
      this.#upstream = { at: now, state };
      void state.then((known) => {
        this.#lastUpstream = known;
      });
    }
    return within(PROBE_WAIT_MS, this.#upstream.state, () => this.#lastUpstream);
  }
}
