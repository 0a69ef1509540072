import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';

export interface WireRequest {
  readonly url: string;
  readonly method: string;
  readonly headers: Record<string, string>;
  readonly body: string | undefined;
}

/** Below the idle limits that model servers and the proxies before them usually have, so that ours closes first. */
const IDLE_SOCKET_MS = 15_000;
const MAX_IDLE_SOCKETS = 512;

/**
 * HTTP/1.1 with a keep-alive pool and one request per connection at a time, so that thousands of open streams never
 * wait for each other. The body is a Node stream: web streams cost more than all the rest of a reply.
 */
export class Transport {
  readonly #options = {
    keepAlive: true,
    maxSockets: Number.POSITIVE_INFINITY,
    maxFreeSockets: MAX_IDLE_SOCKETS,
    timeout: IDLE_SOCKET_MS,
  };
  readonly #http = new http.Agent(this.#options);
  readonly #https = new https.Agent(this.#options);

  /** Resolves with the answer's head, whatever its status. The signal closes the connection, during the body too. */
  async send(request: WireRequest, signal: AbortSignal): Promise<IncomingMessage> {
    const secure = request.url.startsWith('https:');
    const pooled = await exchange(request, secure ? this.#https : this.#http, signal);
    if (pooled !== 'stale') return pooled;
    const fresh = await exchange(request, false, signal);
    if (fresh === 'stale') throw new Error('a new connection cannot be stale');
    return fresh;
  }

  /** Closes every connection, those in use as well. */
  close(): void {
    this.#http.destroy();
    this.#https.destroy();
  }
}

/**
 * `stale`: the other side had closed the idle connection that was picked, and nothing was answered. That is no fault
 * of the request, so it may go out once more at once.
 */
function exchange(
  request: WireRequest,
  agent: http.Agent | false,
  signal: AbortSignal,
): Promise<IncomingMessage | 'stale'> {
  const { url, method, headers, body } = request;
  const client = url.startsWith('https:') ? https : http;
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const outgoing = client.request(url, { method, headers, agent }, resolve);
    const abort = () => outgoing.destroy();
    signal.addEventListener('abort', abort, { once: true });
    outgoing.once('close', () => signal.removeEventListener('abort', abort));
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      const lost = error.code === 'ECONNRESET' || error.code === 'EPIPE';
      if (lost && outgoing.reusedSocket && !signal.aborted) resolve('stale');
      else reject(error);
    });
    outgoing.end(body);
  });
}
