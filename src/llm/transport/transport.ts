import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { Readable } from 'node:stream';
import { urlToHttpOptions } from 'node:url';

export interface WireRequest {
  readonly url: string;
  readonly method: string;
  readonly headers: Record<string, string>;
  /** In pieces when it is long. */
  readonly body?: string | readonly string[];
  /** Called when the request has a connection. */
  readonly connected?: () => void;
}

/** The variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, also in lower case. */
export type ProxyEnv = Readonly<Record<string, string | undefined>>;

/** Below the usual idle limits of model servers and proxies, so that this side closes first. */
const IDLE_SOCKET_MS = 15_000;
const MAX_IDLE_SOCKETS = 512;

/**
 * HTTP/1.1 with a keep-alive pool and one request per connection at a time, so that open streams never wait for each
 * other. The body is a Node stream, because reading a web stream takes more CPU time than the rest of a reply.
 */
export class Transport {
  readonly #proxyEnv: ProxyEnv | undefined;
  readonly #http: http.Agent;
  readonly #https: https.Agent;

  /** Parsed URLs: one for each path in use. */
  readonly #targets = new Map<string, https.RequestOptions>();

  constructor(proxyEnv: ProxyEnv | undefined) {
    this.#proxyEnv = proxyEnv;
    const options = {
      keepAlive: true,
      maxSockets: Number.POSITIVE_INFINITY,
      maxFreeSockets: MAX_IDLE_SOCKETS,
      timeout: IDLE_SOCKET_MS,
      proxyEnv,
    };
    this.#http = new http.Agent(options);
    this.#https = new https.Agent(options);
  }

  /**
   * Resolves with the head of the response, whatever its status. The signal closes the connection, also while the body
   * is read.
   */
  async send(request: WireRequest, signal: AbortSignal): Promise<IncomingMessage> {
    const target = this.#target(request.url);
    const isHttps = target.protocol === 'https:';
    const agent = isHttps ? this.#https : this.#http;
    const pooled = await exchange(request, { ...target, agent }, signal);
    if (pooled !== 'stale') return pooled;
    const options = { proxyEnv: this.#proxyEnv };
    const unpooled = isHttps ? new https.Agent(options) : new http.Agent(options);
    const fresh = await exchange(request, { ...target, agent: unpooled }, signal);
    if (fresh === 'stale') throw new Error('a new connection cannot be stale');
    return fresh;
  }

  #target(url: string): https.RequestOptions {
    let target = this.#targets.get(url);
    if (!target) {
      const { protocol, hostname, port, path, auth } = urlToHttpOptions(new URL(url));
      target = { protocol, hostname, port, path, ...(auth ? { auth } : {}) };
      this.#targets.set(url, target);
    }
    return target;
  }

  /** Closes every connection, those in use as well. */
  close(): void {
    this.#http.destroy();
    this.#https.destroy();
  }
}

/**
 * `stale`: the server closed the idle connection before it read the request, so the request can be sent again.
 */
function exchange(
  { method, headers, body, connected }: WireRequest,
  target: https.RequestOptions,
  signal: AbortSignal,
): Promise<IncomingMessage | 'stale'> {
  const client = target.protocol === 'https:' ? https : http;
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const outgoing = client.request({ ...target, method, headers }, resolve);
    const abort = () => outgoing.destroy();
    signal.addEventListener('abort', abort, { once: true });
    if (connected) onceConnected(outgoing, connected);
    outgoing.once('close', () => signal.removeEventListener('abort', abort));
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      const lost = error.code === 'ECONNRESET' || error.code === 'EPIPE';
      if (lost && outgoing.reusedSocket && !signal.aborted) resolve('stale');
      else reject(error);
    });
    if (body === undefined || typeof body === 'string') outgoing.end(body);
    else sendPieces(outgoing, body);
  });
}

/** Encoding 22 MB in one tick would block the event loop. */
function sendPieces(outgoing: http.ClientRequest, pieces: readonly string[]): void {
  const length = pieces.reduce((sum, piece) => sum + Buffer.byteLength(piece), 0);
  outgoing.setHeader('content-length', length);
  Readable.from(pieces, { objectMode: false }).pipe(outgoing);
}

function onceConnected(outgoing: http.ClientRequest, connected: () => void): void {
  outgoing.once('socket', (socket) => {
    if (outgoing.reusedSocket) connected();
    else socket.once(outgoing.protocol === 'https:' ? 'secureConnect' : 'connect', connected);
  });
}
