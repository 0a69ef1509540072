import { MAX_MODEL_NAMES } from '../domain/metrics.ts';

/** The label of every model beyond the limit. */
const OTHER = 'other';

/** Names of models as label values. Callers choose the names, so only some become labels. */
export class ModelNames {
  readonly #admit: (name: string) => boolean;
  readonly #admitted = new Set<string>();

  /** @param admit asks for one of the places that the workers of this host share */
  constructor(admit: (name: string) => boolean) {
    this.#admit = admit;
  }

  /** @param answered whether the model has answered: names of models that do not exist take no place */
  label(name: string, answered: boolean): string {
    if (this.#admitted.has(name)) return name;
    if (!answered || this.#admitted.size >= MAX_MODEL_NAMES || !this.#admit(name)) return OTHER;
    this.#admitted.add(name);
    return name;
  }
}
