import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, type Socket, Server as TcpServer } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Express } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { Log } from '../../domain/runtime.ts';
import { methodNotAllowed } from '../response/problem.ts';
import { ConnectionLimiter } from './connection-limiter.ts';
import { sendEarlyError, sendEarlyErrorOn } from './early-errors.ts';
import { framingError } from './framing.ts';

const MAX_HEADER_BYTES = 16 * 1024;
const HEADERS_TIMEOUT_MS = 15_000;
const REQUEST_TIMEOUT_MS = 30_000;
/** How often Node checks these timeouts. Its default of 30 s would double them. */
const CHECK_INTERVAL_MS = 1000;
/** Longer than the idle timeout of common proxies (60 s), so that the proxy closes first and never hits a closed socket. */
const KEEP_ALIVE_MS = 72_000;
/** Drop clients that do not read for this long, and free their buffers. */
const STALL_MS = 60_000;
/** Several times the open streams of one process, at a few kilobytes each. */
const MAX_CONNECTIONS = 10_000;

export interface ServerLimits {
  readonly bodyLimit: number;
  /** The defaults are the constants above; tests use shorter ones. */
  readonly headersTimeoutMs?: number;
  readonly requestTimeoutMs?: number;
  readonly stallMs?: number;
  readonly maxConnections?: number;
  readonly log?: Pick<Log, 'warn'>;
}

/** The listener in front of the app. It also answers malformed, oversized and slow requests and excess connections. */
export class HttpServer {
  readonly #server: Server;
  readonly #app: Express;
  readonly #connections: ConnectionLimiter;
  /** The latest response on each connection. */
  readonly #latest = new WeakMap<Duplex, ServerResponse>();
  /** How many bytes a connection had received when its latest response was complete. */
  readonly #receivedAtEnd = new WeakMap<Duplex, number>();
  /** During shutdown, how long an idle connection may still send a request; undefined before. */
  #idleMs: number | undefined;

  constructor(app: Express, limits: ServerLimits) {
    this.#app = app;
    const requestTimeout = limits.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
    const server = createServer({
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: Math.min(limits.headersTimeoutMs ?? HEADERS_TIMEOUT_MS, requestTimeout),
      requestTimeout,
      connectionsCheckingInterval: Math.min(CHECK_INTERVAL_MS, requestTimeout),
      keepAliveTimeout: KEEP_ALIVE_MS,
      // framingError() checks it: Node would answer without a body.
      requireHostHeader: false,
    });
    this.#server = server;
    this.#connections = new ConnectionLimiter(server, limits.maxConnections ?? MAX_CONNECTIONS, limits.log);
    // No limit here, because Node drops excess header fields silently. The app answers 431.
    server.maxHeadersCount = 0;
    server.setTimeout(limits.stallMs ?? STALL_MS, (socket) => this.#onIdle(socket));
    server.on('request', (request, response) => this.#onRequest(request, response));
    server.on('clientError', (error, socket) => this.#onClientError(error, socket));
    server.on('connect', rejectTunnel);
    // Unknown expectations are ignored: Node would answer 417 without a body.
    server.on('checkExpectation', (request, response) => server.emit('request', request, response));
    // "Expect: 100-continue": a body that would be rejected is not requested.
    server.on('checkContinue', (request, response: ServerResponse) => {
      const fits = Number(request.headers['content-length'] ?? 0) <= limits.bodyLimit;
      if (fits && !this.#earlyError(request)) response.writeContinue();
      server.emit('request', request, response);
    });
  }

  /**
   * @param exclusive false: in a cluster all workers share the port
   * @returns the actual address, also for PORT=0
   */
  async listen(
    port: number,
    host: string,
    exclusive = false,
  ): Promise<{ host: string; port: number; url: string }> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ port, host, exclusive }, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
    const address = this.#server.address() as AddressInfo;
    const hostname = address.family === 'IPv6' ? `[${address.address}]` : address.address;
    return { host: address.address, port: address.port, url: `http://${hostname}:${address.port}` };
  }

  /**
   * Accepts no new connections and lets the requests on open ones finish, with `Connection: close` unless their headers
   * are sent already. `closed` resolves after the last connection; `force` destroys those that remain.
   *
   * @param idleMs how long an idle connection may still send a request. HTTP/1.1 cannot announce that an idle
   *   connection will be closed, so a request that meets the end of this time is lost.
   */
  close(idleMs: number): { readonly closed: Promise<void>; force(): void } {
    this.#idleMs = idleMs;
    this.#server.prependListener('request', (_request, response) =>
      response.setHeader('Connection', 'close'),
    );
    // In a cluster a connection can be on its way to this worker.
    this.#server.on('connection', (socket) => this.#closeWhenIdle(socket));
    const closed = new Promise<void>((resolve) => {
      // http.Server.close() would destroy idle connections immediately, and requests on their way with them.
      TcpServer.prototype.close.call(this.#server, () => resolve());
    });
    for (const socket of this.#connections.open) {
      const response = this.#latest.get(socket);
      if (response && !response.headersSent) response.setHeader('Connection', 'close');
      if (this.#isIdle(socket)) this.#closeWhenIdle(socket);
    }
    return { closed, force: () => this.#server.closeAllConnections() };
  }

  /** Whether nothing of a request was received since the latest response was complete, or at all. */
  #isIdle(socket: Socket): boolean {
    const isComplete = this.#latest.get(socket)?.closed ?? true;
    return isComplete && socket.bytesRead === (this.#receivedAtEnd.get(socket) ?? 0);
  }

  #closeWhenIdle(socket: Socket): void {
    const { bytesRead } = socket;
    setTimeout(() => {
      if (socket.bytesRead === bytesRead && this.#isIdle(socket)) socket.destroy();
    }, this.#idleMs).unref();
  }

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    this.#latest.set(socket, response);
    response.once('close', () => {
      this.#receivedAtEnd.set(socket, socket.bytesRead);
      // Headers sent before the shutdown did not say "close". Such a connection would stay open for the keep-alive.
      if (this.#idleMs !== undefined) this.#closeWhenIdle(socket);
    });
    const error = this.#earlyError(request);
    if (error) sendEarlyError(response, error);
    else this.#app(request, response);
  }

  #earlyError(request: IncomingMessage): AppError | undefined {
    if (this.#connections.isOver(request.socket)) {
      return new AppError('capacity', 'Too many connections are open; retry later', { retryAfter: 5 });
    }
    const detail = framingError(request);
    return detail === undefined ? undefined : new AppError('malformed_request', detail);
  }

  /** Nothing was sent or received for the timeout. A client that waits for the model has nothing to read. */
  #onIdle(socket: Socket): void {
    const response = this.#latest.get(socket);
    const waiting = response !== undefined && !response.writableFinished;
    if (!waiting || socket.writableLength > 0) socket.destroy();
  }

  #onClientError(error: NodeJS.ErrnoException, socket: Duplex): void {
    const response = this.#latest.get(socket);
    if (error.code === 'ECONNRESET' || !socket.writable || this.#connections.isOver(socket)) socket.destroy();
    else if (!response || (response.writableFinished && response.req.complete))
      sendEarlyErrorOn(socket, clientError(error));
    // A response in progress leaves no place for an error.
    else if (response.headersSent) socket.destroy();
    // The error came after this request, which is still answered as the last one.
    else if (response.req.complete) response.setHeader('Connection', 'close');
    else {
      const requestId = response.getHeader('X-Request-Id')?.toString();
      sendEarlyErrorOn(socket, clientError(error), response.req, requestId);
    }
  }
}

function clientError(error: NodeJS.ErrnoException): AppError {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new AppError(
        'headers_too_large',
        `The request headers must be at most ${MAX_HEADER_BYTES} bytes`,
      );
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new AppError('request_timeout', 'The request did not arrive in time; send it again');
    default:
      return new AppError('malformed_request', 'The request must be valid HTTP/1.1');
  }
}

/** After `connect` Node no longer manages the socket. */
function rejectTunnel(request: IncomingMessage, socket: Duplex): void {
  socket.on('error', () => socket.destroy());
  socket.resume();
  const error = methodNotAllowed('CONNECT', 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS');
  sendEarlyErrorOn(socket, error, request);
}
