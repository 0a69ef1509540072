/** Webhooks as specified by Standard Webhooks (https://www.standardwebhooks.com). */

import { createHmac } from 'node:crypto';
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { LookupFunction } from 'node:net';
import { errorCode } from '../domain/errors.ts';
import type { ExportJob } from '../domain/exports/jobs.ts';
import type { Clock } from '../domain/runtime.ts';
import { lineJson } from '../util/line-json.ts';
import { checkedLookup, hasPrivateAddress, type Resolve, systemResolve } from './addresses.ts';
import { DeliveryError } from './delivery-error.ts';

export interface WebhookOptions {
  /** Signing key as `whsec_` and base64; the same in all processes on the database. */
  readonly secret: () => Promise<string>;
  /** The job as the API presents it. */
  readonly present: (job: ExportJob) => object;
  /** Whether private addresses may be called. */
  readonly allowPrivate: boolean;
  readonly clock: Clock;
  /** For the whole delivery, including name resolution. */
  readonly timeoutMs?: number;
  /** For tests. */
  readonly resolve?: Resolve;
}

const TIMEOUT_MS = 10_000;
const MAX_RESPONSE_BYTES = 64 * 1024;
const GONE = 410;

/** Posts the result of a job to a URL. Rejects with DeliveryError unless the response is 2xx and comes before the abort. */
export type Webhook = (job: ExportJob, url: string, abort?: AbortSignal) => Promise<void>;

export function createWebhook(options: WebhookOptions): Webhook {
  const { allowPrivate, clock, resolve = systemResolve, timeoutMs = TIMEOUT_MS } = options;
  const lookup = checkedLookup(resolve, allowPrivate);
  return async (job, text, abort) => {
    const error = webhookUrlError(text, allowPrivate);
    if (error !== undefined) throw new DeliveryError(`the URL ${error}`, { permanent: true });
    const body = lineJson({
      type: `export.${job.status}`,
      timestamp: new Date(job.finishedAt ?? clock.now()).toISOString(),
      data: options.present(job),
    });
    const id = `export_${job.id}`;
    const sentAt = clock.now();
    const { Webhook: Signer } = await import('standardwebhooks');
    const headers = {
      'Content-Type': 'application/json',
      'Content-Length': Buffer.byteLength(body),
      'User-Agent': 'chat-api-server',
      'webhook-id': id,
      'webhook-timestamp': Math.floor(sentAt / 1000),
      'webhook-signature': new Signer(await options.secret()).sign(id, new Date(sentAt), body),
    };
    const timeout = AbortSignal.timeout(timeoutMs);
    const signal = abort ? AbortSignal.any([abort, timeout]) : timeout;
    const status = await post(new URL(text), headers, body, lookup, signal).catch((cause: unknown) => {
      throw timeout.aborted ? new DeliveryError(`no response within ${timeoutMs} ms`) : failure(cause);
    });
    if (status >= 200 && status <= 299) return;
    throw new DeliveryError(`the response was ${status}`, { permanent: status === GONE });
  };
}

/**
 * Derives the webhook key, so that receivers cannot sign links and cursors. In a shell: `openssl dgst -sha256 -hmac
 * "$LINK_SECRET"` over the word `webhook`, in base64.
 */
export function webhookSecret(linkSecret: string): string {
  return `whsec_${createHmac('sha256', linkSecret).update('webhook').digest('base64')}`;
}

/** Why a URL cannot be a webhook, as far as that is visible without resolving its name. */
export function webhookUrlError(text: string, allowPrivate: boolean): string | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !/^https?:$/.test(url.protocol)) return 'must be an http:// or https:// URL';
  if (url.username !== '' || url.password !== '') return 'must not contain a user or a password';
  return !allowPrivate && hasPrivateAddress(url) ? 'must not be a private address' : undefined;
}

/**
 * Uses a new connection and no proxy, which would resolve the name again. Follows no redirects.
 * @returns the status
 */
async function post(
  url: URL,
  headers: Record<string, string | number>,
  body: string,
  lookup: LookupFunction,
  signal: AbortSignal,
): Promise<number> {
  const secure = url.protocol === 'https:';
  const agent = secure ? new HttpsAgent({ keepAlive: false }) : new HttpAgent({ keepAlive: false });
  const options = { method: 'POST', headers, agent, signal, lookup };
  try {
    return await new Promise<number>((resolve, reject) => {
      const request = (secure ? httpsRequest : httpRequest)(url, options);
      request.once('error', reject);
      request.once('response', (response) => {
        // The status decides, even if the body breaks off.
        request.off('error', reject).on('error', () => {});
        void drain(response).finally(() => {
          request.destroy();
          resolve(response.statusCode ?? 0);
        });
      });
      request.end(body);
    });
  } finally {
    agent.destroy();
  }
}

/** Reads the body up to the limit, so that the receiver sees no reset connection. */
async function drain(response: IncomingMessage): Promise<void> {
  let bytes = 0;
  try {
    for await (const chunk of response) {
      bytes += Buffer.byteLength(chunk);
      if (bytes >= MAX_RESPONSE_BYTES) return;
    }
  } catch {
    // Broken off or too slow; the status has arrived.
  }
}

/** The system's message contains the address. */
function failure(error: unknown): DeliveryError {
  if (error instanceof DeliveryError) return error;
  const code = errorCode(error) ?? 'unknown';
  return new DeliveryError(`no connection (${code})`);
}
