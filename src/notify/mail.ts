import { hostname } from 'node:os';
import { createTransport } from 'nodemailer';
import type { ExportJob } from '../domain/exports/jobs.ts';
import { DeliveryError } from './delivery-error.ts';

export interface MailOptions {
  /** `smtp://user:password@host:587`, or smtps:// */
  readonly smtpUrl: string;
  /** Default: `chat-api-server@` and the host name. */
  readonly from?: string | undefined;
  /** How long the mail server may be silent. */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 10_000;

export interface Mailer {
  /** Sends the result of a job. Rejects with DeliveryError unless the mail server accepts the mail before the abort. */
  send(job: ExportJob, to: string, abort?: AbortSignal): Promise<void>;
}

export function createMailer({ smtpUrl, from, timeoutMs = TIMEOUT_MS }: MailOptions): Mailer {
  const transport = createTransport({
    url: smtpUrl,
    dnsTimeout: timeoutMs,
    connectionTimeout: timeoutMs,
    greetingTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  return {
    async send(job, to, abort) {
      const message = {
        from: from ?? `chat-api-server@${hostname()}`,
        // A string could be parsed as a list of addresses.
        to: { name: '', address: to },
        subject: subject(job),
        text: text(job),
        // Stable, so that duplicates can be recognized.
        messageId: `<export-${job.id}@chat-api-server>`,
        headers: { 'Auto-Submitted': 'auto-generated' },
      };
      const timeout = AbortSignal.timeout(2 * timeoutMs);
      const signal = abort ? AbortSignal.any([abort, timeout]) : timeout;
      try {
        await transport.sendMail({ ...message, signal });
      } catch (error) {
        throw failure(error);
      }
    },
  };
}

const grouped = new Intl.NumberFormat('en-US');

function subject({ status, manifest }: ExportJob): string {
  return manifest ? `Export done: ${grouped.format(manifest.messages)} messages` : `Export ${status}`;
}

function text({ id, error, manifest }: ExportJob): string {
  const place = `Details: GET /api/exports/${id}`;
  if (!manifest) return `The export you requested has failed.\n\n${error ?? ''}\n\n${place}\n`;
  const { format, compression, conversations, messages, deleted, bytes, sha256 } = manifest;
  return [
    'The export you requested is done.',
    '',
    `Format: ${format}${compression === 'none' ? '' : `, ${compression}`}`,
    `Conversations: ${grouped.format(conversations)}`,
    `Messages: ${grouped.format(messages)}`,
    ...(deleted > 0 ? [`Deleted conversations: ${grouped.format(deleted)}`] : []),
    `Size: ${grouped.format(bytes)} bytes`,
    `SHA-256: ${sha256}`,
    '',
    `File: GET /api/exports/${id}/file`,
    place,
    '',
  ].join('\n');
}

/** Without the mail server's message, which quotes addresses. */
function failure(error: unknown): DeliveryError {
  const { code, responseCode } = { ...(error instanceof Error ? error : {}) } as {
    code?: string;
    responseCode?: number;
  };
  const reply = responseCode === undefined ? '' : `, reply code ${responseCode}`;
  // Only errors of the address or the mail: a wrong password can be corrected by the operator.
  const permanent = (code === 'EENVELOPE' || code === 'EMESSAGE') && (responseCode ?? 0) >= 500;
  return new DeliveryError(`the mail server did not accept the mail (${code ?? 'unknown'}${reply})`, {
    permanent,
  });
}
