import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Log } from '../../domain/runtime.ts';

/** How many connections over the limit are answered with 503. Node drops further ones without a response. */
const MAX_REJECTED = 200;
/** How long a connection over the limit may take for its request and the response. */
const REJECT_TIMEOUT_MS = 2000;
const LOG_INTERVAL_MS = 10_000;

/**
 * Limits the open connections. Those over the limit stay open for a 503, because clients and proxies take a dropped
 * connection for a broken server.
 */
export class ConnectionLimiter {
  readonly #max: number;
  readonly #log: Pick<Log, 'warn'> | undefined;
  readonly #over = new WeakSet<Duplex>();
  readonly #open = new Set<Socket>();
  #loggedAt = Number.NEGATIVE_INFINITY;

  constructor(server: Server, max: number, log: Pick<Log, 'warn'> | undefined) {
    this.#max = max;
    this.#log = log;
    server.maxConnections = max + MAX_REJECTED;
    server.on('drop', () => this.#logLimit());
    server.on('connection', (socket) => this.#count(socket));
  }

  /** Whether the limit was reached when this connection was opened. */
  isOver(socket: Duplex): boolean {
    return this.#over.has(socket);
  }

  get open(): Iterable<Socket> {
    return this.#open;
  }

  #count(socket: Socket): void {
    this.#open.add(socket);
    socket.once('close', () => this.#open.delete(socket));
    if (this.#open.size <= this.#max) return;
    this.#over.add(socket);
    const timer = setTimeout(() => socket.destroy(), REJECT_TIMEOUT_MS);
    socket.once('close', () => clearTimeout(timer));
    this.#logLimit();
  }

  #logLimit(): void {
    const now = performance.now();
    if (now < this.#loggedAt + LOG_INTERVAL_MS) return;
    this.#loggedAt = now;
    this.#log?.warn({ connections: this.#open.size, limit: this.#max }, 'connection limit reached');
  }
}
