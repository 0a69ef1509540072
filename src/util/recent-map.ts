/** A bounded map that drops the entry set longest ago. */
export class RecentMap<V> extends Map<string, V> {
  readonly #max: number;

  constructor(max: number) {
    super();
    this.#max = max;
  }

  override set(key: string, value: V): this {
    this.delete(key);
    if (this.size >= this.#max) for (const oldest of this.keys().take(1)) this.delete(oldest);
    return super.set(key, value);
  }
}
