import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Log } from '../../domain/runtime.ts';

/** So many over the bound are still told that they are too many; whoever comes then is dropped without a word. */
const MAX_REJECTED = 200;
/** In this time one too many has to send its request, hear the answer and be gone. */
const REJECT_TIMEOUT_MS = 2000;
/** How often it is logged at most. */
const LOG_EVERY_MS = 10_000;

/**
 * How many connections may be open. One too many is answered with 503 by whoever asks {@link isOver}, because a
 * connection that is dropped looks to a client and a proxy like a server that is broken.
 */
export class ConnectionLimiter {
  readonly #max: number;
  readonly #log: Pick<Log, 'warn'> | undefined;
  readonly #over = new WeakSet<Duplex>();
  #open = 0;
  #loggedAt = Number.NEGATIVE_INFINITY;

  constructor(server: Server, max: number, log: Pick<Log, 'warn'> | undefined) {
    this.#max = max;
    this.#log = log;
    server.maxConnections = max + MAX_REJECTED;
    server.on('drop', () => this.#full());
    server.on('connection', (socket) => this.#count(socket));
  }

  /** Whether this connection came when there was no place for it. */
  isOver(socket: Duplex): boolean {
    return this.#over.has(socket);
  }

  #count(socket: Socket): void {
    this.#open += 1;
    socket.once('close', () => {
      this.#open -= 1;
    });
    if (this.#open <= this.#max) return;
    this.#over.add(socket);
    const timer = setTimeout(() => socket.destroy(), REJECT_TIMEOUT_MS);
    socket.once('close', () => clearTimeout(timer));
    this.#full();
  }

  #full(): void {
    const now = performance.now();
    if (now < this.#loggedAt + LOG_EVERY_MS) return;
    this.#loggedAt = now;
    this.#log?.warn({ connections: this.#open, bound: this.#max }, 'too many connections are open');
  }
}
