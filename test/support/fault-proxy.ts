/** A TCP proxy on loopback that injects faults into connections to a database, a model server or this server. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setImmediate as immediate, setTimeout as pause } from 'node:timers/promises';

/** `toServer`: from the client to the target; `toClient`: from the target to the client. */
export type Direction = 'toServer' | 'toClient';

/** Called with each piece. A returned number passes that many of its bytes and then cuts the connection. */
export type Watch = (piece: Buffer, direction: Direction) => number | undefined;

export interface FaultProxy {
  readonly port: number;
  /** The number of open connections. */
  connections(): number;
  /** Resets every open connection, on both sides. New connections are accepted. */
  cut(): void;
  /** Passes exactly this many more bytes in this direction, over all connections, then cuts the connection, once. */
  cutAfter(bytes: number, direction: Direction): void;
  /** Calls `look` for every piece until it cuts a connection. Undefined removes it. */
  watch(look: Watch | undefined): void;
  /** Delays every piece by this many milliseconds; 0 ends the delay. */
  delay(ms: number): void;
  /** Sends each piece in two halves, some milliseconds apart. */
  halve(on: boolean): void;
  /** Holds all data of this direction back, with open connections, until {@link resume}. */
  stall(direction: Direction): void;
  /** A piece to the target that contains this text, and everything after it, is held back until {@link resume}. */
  hold(text: string): void;
  resume(): void;
  /** Resets new connections immediately. The port stays bound, so that no other process gets it. */
  refuse(): void;
  accept(): void;
  /** Connects new connections to this port. */
  lead(port: number): void;
  /** Cuts everything and stops listening. */
  close(): Promise<void>;
}

const HALF_MS = 3;
const NOTHING = Buffer.alloc(0);

/** The current faults, which all connections share. */
class Faults {
  delayMs = 0;
  halved = false;
  refusing = false;
  watch: Watch | undefined;
  readonly #stalled = new Map<Direction, PromiseWithResolvers<void>>();
  #held: { readonly text: string; readonly until: PromiseWithResolvers<void> } | undefined;

  hold(text: string): void {
    this.#held = { text, until: Promise.withResolvers() };
  }

  stall(direction: Direction): void {
    if (!this.#stalled.has(direction)) this.#stalled.set(direction, Promise.withResolvers());
  }

  resume(): void {
    for (const { resolve } of this.#stalled.values()) resolve();
    this.#stalled.clear();
    this.#held?.until.resolve();
    this.#held = undefined;
  }

  async moving(piece: Buffer, direction: Direction): Promise<void> {
    if (this.#held && direction === 'toServer' && piece.includes(this.#held.text))
      await this.#held.until.promise;
    for (let stop = this.#stalled.get(direction); stop; stop = this.#stalled.get(direction))
      await stop.promise;
  }
}

/** A connection through the proxy. */
class Pair {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #faults: Faults;
  readonly #gone = Promise.withResolvers<void>();

  constructor(client: Socket, port: number, faults: Faults) {
    this.#client = client;
    this.#server = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
    this.#faults = faults;
    client.setNoDelay(true);
    // An error on one side resets the other side too, so that a reset is forwarded.
    client.on('error', () => this.cut());
    this.#server.on('error', () => this.cut());
    void this.#pump(client, this.#server, 'toServer');
    void this.#pump(this.#server, client, 'toClient');
  }

  cut(): void {
    this.#gone.resolve();
    reset(this.#client);
    reset(this.#server);
  }

  async closed(): Promise<void> {
    await Promise.all([this.#client, this.#server].map(closing));
  }

  async #pump(source: Socket, sink: Socket, direction: Direction): Promise<void> {
    try {
      for await (const piece of source.iterator({ destroyOnReturn: false })) {
        assert(piece instanceof Buffer);
        if (!(await this.#pass(piece, sink, direction))) return;
      }
      await this.#free(NOTHING, direction);
      sink.end();
    } catch {
      this.cut();
    }
  }

  async #pass(piece: Buffer, sink: Socket, direction: Direction): Promise<boolean> {
    const faults = this.#faults;
    if (faults.delayMs > 0) await Promise.race([pause(faults.delayMs), this.#gone.promise]);
    await this.#free(piece, direction);
    const allowed = faults.watch?.(piece, direction);
    if (allowed !== undefined) {
      faults.watch = undefined;
      await write(sink, piece.subarray(0, allowed));
      this.cut();
      return false;
    }
    if (faults.halved && piece.length > 1) {
      await write(sink, piece.subarray(0, piece.length >> 1));
      await pause(HALF_MS);
      // The event loop polls before this, so that a peer in this process has read the first half even if the timer is
      // late.
      await immediate();
      await write(sink, piece.subarray(piece.length >> 1));
    } else await write(sink, piece);
    return !sink.destroyed;
  }

  async #free(piece: Buffer, direction: Direction): Promise<void> {
    await Promise.race([this.#faults.moving(piece, direction), this.#gone.promise]);
  }
}

/**
 * After end() a socket cannot be reset while its FIN is being sent: Node would never close it. It is destroyed instead.
 */
function reset(socket: Socket): void {
  if (socket.writableEnded && !socket.writableFinished) socket.destroy();
  else socket.resetAndDestroy();
}

/** Resolves at the close. Not `once`, which rejects after an error. */
function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) => void socket.once('close', () => resolve()));
}

/** Resolves when the system has accepted the data, so that a later reset does not discard it. */
function write(sink: Socket, piece: Buffer): Promise<void> {
  if (piece.length === 0 || sink.destroyed) return Promise.resolve();
  return new Promise((resolve) => void sink.write(piece, () => resolve()));
}

/** A proxy in front of this port of the loopback address. */
export async function startFaultProxy(firstTarget: number): Promise<FaultProxy> {
  let target = firstTarget;
  const faults = new Faults();
  const pairs = new Set<Pair>();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    if (faults.refusing) {
      client.on('error', () => {}).resetAndDestroy();
      return;
    }
    const pair = new Pair(client, target, faults);
    pairs.add(pair);
    void pair.closed().then(() => pairs.delete(pair));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert(address !== null && typeof address === 'object');
  const cut = () => {
    for (const pair of pairs) pair.cut();
  };
  return {
    port: address.port,
    connections: () => pairs.size,
    cut,
    cutAfter(bytes, direction) {
      faults.watch = countdown(bytes, direction);
    },
    watch(look) {
      faults.watch = look;
    },
    delay(ms) {
      faults.delayMs = ms;
    },
    halve(on) {
      faults.halved = on;
    },
    stall: (direction) => faults.stall(direction),
    hold: (text) => faults.hold(text),
    resume: () => faults.resume(),
    refuse() {
      faults.refusing = true;
    },
    lead(port) {
      target = port;
    },
    accept() {
      faults.refusing = false;
    },
    async close() {
      const closed = once(server, 'close');
      server.close();
      faults.resume();
      cut();
      await closed;
    },
  };
}

function countdown(bytes: number, direction: Direction): Watch {
  let left = bytes;
  return (piece, way) => {
    if (way !== direction) return undefined;
    if (piece.length >= left) return left;
    left -= piece.length;
    return undefined;
  };
}
