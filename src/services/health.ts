import type { ConversationRepository } from '../domain/conversation.ts';
import type { ChatModel } from '../domain/model.ts';
import type { PendingTurns } from '../domain/turns.ts';
import { within } from '../util/timers.ts';

/** How long an answer about the model server is good for, milliseconds: probes come often, its owner may count calls. */
const UPSTREAM_FRESH_MS = 10_000;
const UPSTREAM_TIMEOUT_MS = 3000;
/** How long a probe waits for that answer: the usual limit of a probe is a second, and the answer decides nothing. */
const PROBE_WAIT_MS = 500;

export interface HealthReport {
  /** Whether this process should get requests. A model server that is away does not take it out of service. */
  readonly ready: boolean;
  readonly stopping: boolean;
  readonly database: 'up' | 'down';
  readonly upstream: 'demo' | 'up' | 'down';
  /** What waits on this host for the database. */
  readonly journal: ReturnType<PendingTurns['state']>;
}

/** Whether the parts behind this process answer. */
export class HealthService {
  readonly #conversations: Pick<ConversationRepository, 'check'>;
  readonly #model: Pick<ChatModel, 'reachable'>;
  readonly #pending: Pick<PendingTurns, 'state'>;
  readonly #demo: boolean;
  #stopping = false;
  #upstream: { at: number; up: Promise<boolean> } | undefined;
  #upstreamLastUp = false;

  constructor(
    conversations: Pick<ConversationRepository, 'check'>,
    model: Pick<ChatModel, 'reachable'>,
    pending: Pick<PendingTurns, 'state'>,
    demo: boolean,
  ) {
    this.#pending = pending;
    this.#conversations = conversations;
    this.#model = model;
    this.#demo = demo;
  }

  /** From now on not ready, so that a load balancer sends nobody new. */
  stop(): void {
    this.#stopping = true;
  }

  async report(): Promise<HealthReport> {
    const [database, upstream] = await Promise.all([this.#databaseUp(), this.#upstreamUp()]);
    return {
      ready: database && !this.#stopping,
      stopping: this.#stopping,
      database: database ? 'up' : 'down',
      upstream: this.#demo ? 'demo' : upstream ? 'up' : 'down',
      journal: this.#pending.state(),
    };
  }

  async #databaseUp(): Promise<boolean> {
    try {
      await this.#conversations.check();
      return true;
    } catch {
      return false;
    }
  }

  /** What was last known where the model server takes its time. */
  #upstreamUp(): Promise<boolean> {
    const now = performance.now();
    if (!this.#upstream || now - this.#upstream.at > UPSTREAM_FRESH_MS) {
      const up = this.#model.reachable(AbortSignal.timeout(UPSTREAM_TIMEOUT_MS));
      this.#upstream = { at: now, up };
      void up.then((answer) => {
        this.#upstreamLastUp = answer;
      });
    }
    return within(PROBE_WAIT_MS, this.#upstream.up, () => this.#upstreamLastUp);
  }
}
