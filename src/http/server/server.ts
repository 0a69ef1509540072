import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, type Socket, Server as TcpServer } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Express } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { Log } from '../../domain/runtime.ts';
import { ConnectionLimiter } from './connection-limiter.ts';
import { sendEarlyError, sendEarlyErrorOn } from './early-errors.ts';
import { framingError } from './framing.ts';

const MAX_HEADER_BYTES = 16 * 1024;
const HEADERS_TIMEOUT_MS = 15_000;
const REQUEST_TIMEOUT_MS = 30_000;
/** How often Node looks for connections over these limits; its own default of 30 s would double them. */
const CHECK_INTERVAL_MS = 1000;
/** Longer than the idle timeout of the usual proxies (60 s), so that they close first and never meet a closed socket. */
const KEEP_ALIVE_MS = 72_000;
/** A client that takes nothing of what waits for it for this long is let go, and with it what is held for it. */
const STALL_MS = 60_000;
/** Enough for the open streams of one process several times over; with a few kilobytes for each, no memory to speak of. */
const MAX_CONNECTIONS = 10_000;

/** While stopping, how long an idle connection may still send a request (and be told to close). */
const IDLE_GRACE_MS = 1000;

export interface ServerLimits {
  readonly bodyLimit: number;
  /** For tests; else the contract's 15 s and 30 s. */
  readonly headersTimeoutMs?: number;
  readonly requestTimeoutMs?: number;
  /** For tests; else 60 s and 10,000. */
  readonly stallMs?: number;
  readonly maxConnections?: number;
  /** Told when there are too many connections. */
  readonly log?: Pick<Log, 'warn'>;
}

/** A server in front of the app that also answers what never becomes a request: broken, too large, too slow, too many. */
export class HttpServer {
  readonly #server: Server;
  readonly #app: Express;
  readonly #bound: ConnectionLimiter;
  /** The last response of each connection. */
  readonly #current = new WeakMap<Duplex, ServerResponse>();
  #closing = false;

  constructor(app: Express, limits: ServerLimits) {
    this.#app = app;
    const requestTimeout = limits.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
    const server = createServer({
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: Math.min(limits.headersTimeoutMs ?? HEADERS_TIMEOUT_MS, requestTimeout),
      requestTimeout,
      connectionsCheckingInterval: Math.min(CHECK_INTERVAL_MS, requestTimeout),
      keepAliveTimeout: KEEP_ALIVE_MS,
      // Node would answer without a word; this is found and said with everything else that is wrong.
      requireHostHeader: false,
    });
    this.#server = server;
    this.#bound = new ConnectionLimiter(server, limits.maxConnections ?? MAX_CONNECTIONS, limits.log);
    // No limit by silent dropping: the app counts the fields and says 431.
    server.maxHeadersCount = 0;
    server.setTimeout(limits.stallMs ?? STALL_MS, (socket) => this.#idle(socket));
    server.on('request', (request, response) => this.#serve(request, response));
    server.on('clientError', (error, socket) => this.#broken(error, socket));
    server.on('connect', (_request, socket) => rejectTunnel(socket));
    // An expectation that nobody here knows is none: else Node would answer, without a word.
    server.on('checkExpectation', (request, response) => server.emit('request', request, response));
    // "Expect: 100-continue": a body that would be refused is not even asked for.
    server.on('checkContinue', (request, response: ServerResponse) => {
      const fits = Number(request.headers['content-length'] ?? 0) <= limits.bodyLimit;
      if (fits && !this.#refusal(request)) response.writeContinue();
      server.emit('request', request, response);
    });
  }

  /** @returns the address that was taken, for PORT=0 too */
  async listen(port: number, host: string): Promise<{ host: string; port: number; url: string }> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ port, host }, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
    const address = this.#server.address() as AddressInfo;
    const shown = address.family === 'IPv6' ? `[${address.address}]` : address.address;
    return { host: address.address, port: address.port, url: `http://${shown}:${address.port}` };
  }

  /**
   * Takes no new connections and lets requests on open ones finish, each answered with `Connection: close`. Resolves
   * when the last connection has gone; `force` cuts what is left.
   */
  close(): { readonly closed: Promise<void>; force(): void } {
    this.#closing = true;
    this.#server.prependListener('request', (_request, response) =>
      response.setHeader('Connection', 'close'),
    );
    const closed = new Promise<void>((resolve) => {
      // Not http's own close: that cuts idle connections at once, and with them a request that is on its way.
      TcpServer.prototype.close.call(this.#server, () => resolve());
    });
    const idle = setTimeout(() => this.#server.closeIdleConnections(), IDLE_GRACE_MS);
    void closed.then(() => clearTimeout(idle));
    return { closed, force: () => this.#server.closeAllConnections() };
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    this.#current.set(socket, response);
    // A reply that had begun before the stop could not say "close": its connection would stay for the keep-alive.
    response.once('close', () => {
      if (!this.#closing) return;
      setTimeout(() => {
        if (this.#current.get(socket) === response) socket.destroy();
      }, IDLE_GRACE_MS).unref();
    });
    const refusal = this.#refusal(request);
    if (refusal) sendEarlyError(response, refusal);
    else this.#app(request, response);
  }

  #refusal(request: IncomingMessage): AppError | undefined {
    if (this.#bound.isOver(request.socket)) {
      return new AppError('capacity', 'Too many connections are open here', { retryAfter: 5 });
    }
    const fault = framingError(request);
    return fault === undefined ? undefined : new AppError('malformed_request', fault);
  }

  /** Nothing moved for a while. Somebody who waits for the model has nothing to take. */
  #idle(socket: Socket): void {
    const response = this.#current.get(socket);
    const waiting = response !== undefined && !response.writableFinished;
    if (!waiting || socket.writableLength > 0) socket.destroy();
  }

  #broken(error: NodeJS.ErrnoException, socket: Duplex): void {
    const response = this.#current.get(socket);
    if (error.code === 'ECONNRESET' || !socket.writable || this.#bound.isOver(socket)) socket.destroy();
    else if (!response || (response.writableFinished && response.req.complete))
      sendEarlyErrorOn(socket, clientError(error));
    // In the middle of a reply there is nothing that could be said.
    else if (response.headersSent) socket.destroy();
    // What is broken came after this request: it is still answered, and then no other.
    else if (response.req.complete) response.setHeader('Connection', 'close');
    else sendEarlyErrorOn(socket, clientError(error));
  }
}

function clientError(error: NodeJS.ErrnoException): AppError {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new AppError(
        'headers_too_large',
        `The header section must be at most ${MAX_HEADER_BYTES} bytes`,
      );
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new AppError('request_timeout', 'The request did not arrive in time');
    default:
      return new AppError('malformed_request', 'This is not a valid HTTP/1.1 request');
  }
}

/** For Node this is a connection of its own from here on, with nobody to look after it. */
function rejectTunnel(socket: Duplex): void {
  socket.on('error', () => socket.destroy());
  socket.resume();
  const allow = { Allow: 'GET, HEAD, POST, DELETE, OPTIONS' };
  sendEarlyErrorOn(
    socket,
    new AppError('method_not_allowed', 'CONNECT is not possible here', { headers: allow }),
  );
}
