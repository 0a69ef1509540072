import { connect, type Socket } from 'node:net';
import type { Connection, ConnectionOptions } from 'mysql2';

/** Steps of opening a connection, each a round trip: greeting, TLS, log-in, public key, password, session settings. */
const STEPS = 6;

/**
 * Connections to MySQL that are being opened. A slow server answers every step late, so only a step without an answer
 * shows that a server is away.
 */
export class ConnectProgress {
  readonly #stepMs: number;
  readonly #sockets = new WeakMap<object, Socket>();
  /** Those that have received something. */
  readonly #responding = new Set<Socket>();

  constructor(stepMs: number) {
    this.#stepMs = stepMs;
  }

  /** The limit for all steps together. */
  get totalMs(): number {
    return STEPS * this.#stepMs;
  }

  /** Whether a server responds to one of them. */
  get isResponding(): boolean {
    return this.#responding.size > 0;
  }

  /** The driver's option `stream`. The socket ends when it receives nothing for the time of a step. */
  readonly open = ({ config }: { readonly config: ConnectionOptions }): Socket => {
    const { host = 'localhost', port = 3306, keepAliveInitialDelay = 0 } = config;
    const socket = connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay });
    socket.setTimeout(this.#stepMs, () => {
      socket.destroy(Object.assign(new Error('connect ETIMEDOUT'), { code: 'ETIMEDOUT' }));
    });
    socket.once('data', () => this.#responding.add(socket));
    socket.once('close', () => this.#responding.delete(socket));
    this.#sockets.set(config, socket);
    return socket;
  };

  /** The connection can be used. From now on statements have a timeout of their own. */
  done({ config }: Connection): void {
    const socket = this.#sockets.get(config);
    if (!socket) return;
    socket.setTimeout(0);
    this.#responding.delete(socket);
  }
}
