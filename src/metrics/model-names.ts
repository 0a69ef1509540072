import { MAX_MODEL_NAMES } from '../domain/metrics.ts';

/** The label of every model beyond the limit. */
const OTHER = 'other';

/** Names of models as label values. Callers choose the names, so only some become labels. */
export class ModelNames {
  readonly #admit: (name: string) => boolean;
  readonly #admitted = new Set<string>();

  /** @param admit adds a name to those that all workers of this host share; false when the limit is reached */
  constructor(admit: (name: string) => boolean) {
    this.#admit = admit;
  }

  /**
   * @param answered whether the model has replied. Otherwise the name is not added, because the model may not exist.
   */
  label(name: string, answered: boolean): string {
    if (this.#admitted.has(name)) return name;
    if (!answered || this.#admitted.size >= MAX_MODEL_NAMES || !this.#admit(name)) return OTHER;
    this.#admitted.add(name);
    return name;
  }
}
