import { randomUUID } from 'node:crypto';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, type Socket, Server as TcpServer } from 'node:net';
import type { Express } from 'express';
import { AppError } from '../domain/errors.ts';
import { problemOf } from './problem.ts';

const MAX_HEADER_BYTES = 16 * 1024;
const HEADERS_TIMEOUT_MS = 15_000;
const REQUEST_TIMEOUT_MS = 30_000;
/** How often Node looks for connections over these limits; its own default of 30 s would double them. */
const CHECK_INTERVAL_MS = 1000;
/** Longer than the idle timeout of the usual proxies (60 s), so that they close first and never meet a closed socket. */
const KEEP_ALIVE_MS = 72_000;

/** While stopping, how long an idle connection may still send a request (and be told to close). */
const IDLE_GRACE_MS = 1000;

export interface ServerLimits {
  readonly bodyLimit: number;
  /** For tests; else the contract's 15 s and 30 s. */
  readonly headersTimeoutMs?: number;
  readonly requestTimeoutMs?: number;
}

/** A server in front of the app that also answers what never becomes a request: broken, too large, too slow. */
export class HttpServer {
  readonly #server: Server;
  #closing = false;

  constructor(app: Express, limits: ServerLimits) {
    const requestTimeout = limits.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
    this.#server = createServer(
      {
        maxHeaderSize: MAX_HEADER_BYTES,
        headersTimeout: Math.min(limits.headersTimeoutMs ?? HEADERS_TIMEOUT_MS, requestTimeout),
        requestTimeout,
        connectionsCheckingInterval: Math.min(CHECK_INTERVAL_MS, requestTimeout),
        keepAliveTimeout: KEEP_ALIVE_MS,
      },
      app,
    );
    // No limit by silent dropping: the app counts the fields and says 431.
    this.#server.maxHeadersCount = 0;
    const current = new WeakMap<Socket, ServerResponse>();
    this.#server.on('request', ({ socket }, response) => {
      current.set(socket, response);
      // A reply that had begun before the stop could not say "close": its connection would stay for the keep-alive.
      response.once('close', () => {
        if (!this.#closing) return;
        setTimeout(() => {
          if (current.get(socket) === response) socket.destroy();
        }, IDLE_GRACE_MS).unref();
      });
    });
    this.#server.on('clientError', (error, socket) => {
      const response = current.get(socket as Socket);
      // In the middle of another reply on this connection there is nothing that could be said.
      const underWay = response?.headersSent && !(response.writableFinished && response.req.complete);
      if (underWay) socket.destroy();
      else answerBrokenRequest(error, socket as Socket);
    });
    // "Expect: 100-continue": a body that would be refused is not even asked for.
    this.#server.on('checkContinue', (request, response: ServerResponse) => {
      if (Number(request.headers['content-length'] ?? 0) <= limits.bodyLimit) response.writeContinue();
      this.#server.emit('request', request, response);
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
}

function brokenRequest(error: NodeJS.ErrnoException): AppError {
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

/** Only the bare socket is left here, so the answer is written by hand. */
function answerBrokenRequest(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const fault = brokenRequest(error);
  const requestId = randomUUID();
  const body = JSON.stringify(problemOf(fault, '/', requestId));
  socket.end(
    `HTTP/1.1 ${fault.status} ${REASON[fault.status] ?? 'Bad Request'}\r\n` +
      'Content-Type: application/problem+json; charset=utf-8\r\n' +
      `Content-Length: ${Buffer.byteLength(body)}\r\nX-Request-Id: ${requestId}\r\n` +
      `Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n${body}`,
  );
}

const REASON: Readonly<Record<number, string>> = {
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
};
