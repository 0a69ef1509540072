import { hostname } from 'node:os';
import { createTransport } from 'nodemailer';
import type { ExportJob } from '../domain/export-jobs.ts';
import { DeliveryError } from './delivery-error.ts';

export interface MailOptions {
  /** `smtp://user:password@host:587`, or smtps:// */
  readonly smtpUrl: string;
  /** Default: `chat-api-server@` and the name of this host. */
  readonly from?: string | undefined;
  /** Of silence of the mail server. */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 10_000;

export interface Mailer {
  /** Tells the address that the job has ended. Rejects with DeliveryError unless the mail server took it. */
  send(job: ExportJob, to: string): Promise<void>;
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
    async send(job, to) {
      const message = {
        from: from ?? `chat-api-server@${hostname()}`,
        // As an object: the text of an address could be a list of several.
        to: { name: '', address: to },
        subject: subject(job),
        text: text(job),
        // The same each time, so that a mail which came twice can be told to be one.
        messageId: `<export-${job.id}@chat-api-server>`,
        headers: { 'Auto-Submitted': 'auto-generated' },
      };
      try {
        await transport.sendMail({ ...message, signal: AbortSignal.timeout(2 * timeoutMs) });
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
  if (!manifest) return `The export that you asked for failed.\n\n${error ?? ''}\n\n${place}\n`;
  const { format, compression, conversations, messages, deleted, bytes, sha256 } = manifest;
  return [
    'The export that you asked for is done.',
    '',
    `Format: ${format}${compression === 'none' ? '' : `, ${compression}`}`,
    `Conversations: ${grouped.format(conversations)}`,
    `Messages: ${grouped.format(messages)}`,
    ...(deleted > 0 ? [`Deleted conversations: ${grouped.format(deleted)}`] : []),
    `Size: ${grouped.format(bytes)} bytes`,
    `SHA-256: ${sha256}`,
    '',
    `The file: GET /api/exports/${id}/file`,
    place,
    '',
  ].join('\n');
}

/** Without the words of the mail server, which quote addresses. */
function failure(error: unknown): DeliveryError {
  const { code, responseCode } = { ...(error instanceof Error ? error : {}) } as {
    code?: string;
    responseCode?: number;
  };
  const answer = responseCode === undefined ? '' : `, its answer was ${responseCode}`;
  // What concerns the address or the mail; a wrong password is the operator's to mend.
  const permanent = (code === 'EENVELOPE' || code === 'EMESSAGE') && (responseCode ?? 0) >= 500;
  return new DeliveryError(
    `the mail server did not take the mail (${code ?? 'unknown'}${answer})`,
    permanent,
  );
}
