/** Webhooks after the Standard Webhooks specification (https://www.standardwebhooks.com). */
import { createHmac } from 'node:crypto';
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { LookupFunction } from 'node:net';
import { errorCode } from '../domain/errors.ts';
import type { ExportJob } from '../domain/export-jobs.ts';
import type { Clock } from '../domain/runtime.ts';
import { checkedLookup, privateLiteral, type Resolve } from './addresses.ts';
import { DeliveryError } from './delivery-error.ts';

export interface WebhookOptions {
  /** Signs; the same for all processes on the database. `whsec_` and base64, or any text. */
  readonly secret: () => Promise<string>;
  /** The job as the API shows it. */
  readonly present: (job: ExportJob) => object;
  /** Also to addresses that not everybody can reach. */
  readonly allowPrivate: boolean;
  readonly clock: Clock;
  /** For the whole of it, the name's resolution included. */
  readonly timeoutMs?: number;
  /** For tests. */
  readonly resolve?: Resolve;
}

const TIMEOUT_MS = 10_000;
/** What is read of an answer. */
const ANSWER_BYTES = 64 * 1024;
const GONE = 410;

/** Tells the URL that the job has ended. Rejects with DeliveryError unless the answer is 2xx. */
export type Webhook = (job: ExportJob, url: string) => Promise<void>;

export function createWebhook(options: WebhookOptions): Webhook {
  const { allowPrivate, clock, resolve, timeoutMs = TIMEOUT_MS } = options;
  const lookup = allowPrivate ? plainLookup(resolve) : checkedLookup(resolve);
  return async (job, text) => {
    const fault = webhookUrlError(text, allowPrivate);
    if (fault !== undefined) throw new DeliveryError(`the URL ${fault}`, true);
    const body = JSON.stringify({
      type: `export.${job.status}`,
      timestamp: new Date(job.finishedAt ?? clock.now()).toISOString(),
      data: options.present(job),
    });
    const id = `export_${job.id}`;
    const timestamp = Math.floor(clock.now() / 1000);
    const headers = {
      'Content-Type': 'application/json',
      'Content-Length': Buffer.byteLength(body),
      'User-Agent': 'chat-api-server',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': sign(await options.secret(), `${id}.${timestamp}.${body}`),
    };
    const status = await post(new URL(text), headers, body, lookup, timeoutMs);
    if (status < 200 || status > 299) throw new DeliveryError(`the answer was ${status}`, status === GONE);
  };
}

/**
 * The key of webhooks, out of the secret that signs cursors too: whoever may check the one must not be able to make
 * the other. In a shell: `openssl dgst -sha256 -hmac "$LINK_SECRET"` over the word `webhook`, in base64.
 */
export function webhookSecret(linkSecret: string): string {
  return `whsec_${createHmac('sha256', linkSecret).update('webhook').digest('base64')}`;
}

/** What keeps a URL from being told anything; undefined when nothing does, as far as it can be seen. */
export function webhookUrlError(text: string, allowPrivate: boolean): string | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !/^https?:$/.test(url.protocol)) return 'must be an http:// or https:// URL';
  if (url.username !== '' || url.password !== '') return 'must not contain a user or a password';
  return allowPrivate || privateLiteral(url) === undefined ? undefined : 'must not be a private address';
}

function sign(secret: string, text: string): string {
  const [, base64] = /^whsec_(.+)$/.exec(secret) ?? [];
  const key = base64 === undefined ? secret : Buffer.from(base64, 'base64');
  return `v1,${createHmac('sha256', key).update(text).digest('base64')}`;
}

/**
 * On a connection of its own, past any proxy, which would resolve the name again; redirects are answers like others.
 * @returns the status
 */
async function post(
  url: URL,
  headers: Record<string, string | number>,
  body: string,
  lookup: LookupFunction | undefined,
  timeoutMs: number,
): Promise<number> {
  const secure = url.protocol === 'https:';
  const agent = secure ? new HttpsAgent({ keepAlive: false }) : new HttpAgent({ keepAlive: false });
  const signal = AbortSignal.timeout(timeoutMs);
  const options = { method: 'POST', headers, agent, signal, ...(lookup && { lookup }) };
  try {
    return await new Promise<number>((resolve, reject) => {
      const request = (secure ? httpsRequest : httpRequest)(url, options);
      request.once('error', reject);
      request.once('response', (response) => {
        // The status is the answer, however the rest of it ends.
        request.off('error', reject).on('error', () => {});
        void swallow(response).finally(() => {
          request.destroy();
          resolve(response.statusCode ?? 0);
        });
      });
      request.end(body);
    });
  } catch (error) {
    if (signal.aborted) throw new DeliveryError(`there was no answer within ${timeoutMs} ms`);
    throw failure(error);
  } finally {
    agent.destroy();
  }
}

/** Reads the answer so far as it is not too long, so that its sender can send it in peace. */
async function swallow(response: IncomingMessage): Promise<void> {
  let bytes = 0;
  try {
    for await (const chunk of response) {
      bytes += Buffer.byteLength(chunk);
      if (bytes >= ANSWER_BYTES) return;
    }
  } catch {
    // Broken off, or too slow.
  }
}

/** The system's own words name the address. */
function failure(error: unknown): DeliveryError {
  if (error instanceof DeliveryError) return error;
  const code = errorCode(error) ?? 'unknown';
  return new DeliveryError(`no connection (${code})`);
}

function plainLookup(resolve: Resolve | undefined): LookupFunction | undefined {
  if (!resolve) return undefined;
  return (hostname, _options, callback) => {
    resolve(hostname).then(
      (addresses) => callback(null, [...addresses]),
      (error: NodeJS.ErrnoException) => callback(error, ''),
    );
  };
}
