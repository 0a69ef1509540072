import type { ListedModel } from '../domain/chat/model.ts';
import type { Clock } from '../domain/runtime.ts';

const KEEP_MS = 60_000;
/** After a failure the model server is asked again sooner. */
const RETRY_MS = 5000;

interface ModelListParts {
  /** Rejects when the model server gives no list. */
  readonly listModels: () => Promise<readonly ListedModel[]>;
  /** The configured models. */
  readonly names: readonly string[];
  readonly clock: Clock;
}

/** The models that callers can name: the list of the model server, or the configured ones when that is not available. */
export class ModelList {
  readonly #parts: ModelListParts;
  #known: { readonly models: Promise<readonly ListedModel[]>; keepUntil: number } | undefined;

  constructor(parts: ModelListParts) {
    this.#parts = parts;
  }

  /** Never rejects. */
  list(): Promise<readonly ListedModel[]> {
    const now = this.#parts.clock.now();
    // A clock that was set back must not keep the list for long.
    if (this.#known && now < this.#known.keepUntil && this.#known.keepUntil - now <= KEEP_MS) {
      return this.#known.models;
    }
    const known = { models: this.#ask(() => (known.keepUntil = now + RETRY_MS)), keepUntil: now + KEEP_MS };
    this.#known = known;
    return known.models;
  }

  async #ask(onFailure: () => void): Promise<readonly ListedModel[]> {
    const { listModels, names } = this.#parts;
    const models = await listModels().catch((): readonly ListedModel[] => []);
    if (models.length > 0) return models;
    onFailure();
    return names.map((id) => ({ id, created: 0, ownedBy: 'unknown' }));
  }
}
