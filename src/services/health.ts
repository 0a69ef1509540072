import type { ChatModel, ConversationRepository } from '../domain/ports.ts';

/** How long an answer about the model server is good for, milliseconds: probes come often, its owner may count calls. */
const UPSTREAM_FRESH_MS = 10_000;
const UPSTREAM_TIMEOUT_MS = 3000;

export interface HealthReport {
  /** Whether this process should get requests. A model server that is away does not take it out of service. */
  readonly ready: boolean;
  readonly stopping: boolean;
  readonly database: 'up' | 'down';
  readonly upstream: 'demo' | 'up' | 'down';
}

/** Whether the parts behind this process answer. */
export class HealthService {
  readonly #conversations: Pick<ConversationRepository, 'check'>;
  readonly #model: Pick<ChatModel, 'reachable'>;
  readonly #demo: boolean;
  #stopping = false;
  #upstream: { at: number; up: Promise<boolean> } | undefined;

  constructor(
    conversations: Pick<ConversationRepository, 'check'>,
    model: Pick<ChatModel, 'reachable'>,
    demo: boolean,
  ) {
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

  #upstreamUp(): Promise<boolean> {
    const now = performance.now();
    if (!this.#upstream || now - this.#upstream.at > UPSTREAM_FRESH_MS) {
      this.#upstream = { at: now, up: this.#model.reachable(AbortSignal.timeout(UPSTREAM_TIMEOUT_MS)) };
    }
    return this.#upstream.up;
  }
}
