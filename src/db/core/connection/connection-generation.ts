/** Set by {@link ConnectionGeneration} on the driver's connections. */
export interface TrackedConnection {
  generation?: number;
}

/**
 * After a failover the address leads to another server, while connections to the old one stay open, answer reads and
 * reject writes. Rights that are granted again apply to new connections only. So an error of this kind on one
 * connection makes the pools replace all of them, each before its next use.
 */
export class ConnectionGeneration {
  #current = 0;
  #isSuspect = false;

  /** The server rejects writes, or denies rights. */
  end(): void {
    this.#current += 1;
    this.#isSuspect = true;
  }

  /** @param isWriter the first connection of the writer that follows may lead elsewhere than earlier ones of readers */
  begin(connection: TrackedConnection, isWriter: boolean): void {
    if (isWriter && this.#isSuspect) {
      this.#current += 1;
      this.#isSuspect = false;
    }
    connection.generation = this.#current;
  }

  isCurrent({ generation }: TrackedConnection): boolean {
    return generation === this.#current;
  }
}
