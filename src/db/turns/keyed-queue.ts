/** A place in a queue. */
export interface Slot {
  /** Resolves when everybody before has left; undefined when nobody is before. */
  readonly before: Promise<void> | undefined;
  /** Lets the next one come. May be called twice. */
  leave(): void;
}

/** A queue for each name; those that are empty take no room. */
export class KeyedQueue {
  readonly #last = new Map<string, Promise<void>>();

  enter(name: string): Slot {
    const before = this.#last.get(name);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last.set(name, promise);
    const leave = () => {
      resolve();
      if (this.#last.get(name) === promise) this.#last.delete(name);
    };
    return { before, leave };
  }
}
