export interface Slot {
  /** Resolves when all earlier slots have left; undefined when there are none. */
  readonly before: Promise<void> | undefined;
  /** Lets the next slot proceed. May be called twice. */
  leave(): void;
}

/** A queue per name. Empty queues use no memory. */
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
