import type { FieldError } from '../domain/errors.ts';
import type {
  ExportJobStore,
  ExportRequest,
  JobNotification,
  NotifyChannel,
} from '../domain/exports/jobs.ts';
import type { Clock, Log } from '../domain/runtime.ts';
import { pause } from '../util/timers.ts';
import { DeliveryError } from './delivery-error.ts';
import type { Mailer } from './mail.ts';
import { type Webhook, webhookUrlError } from './webhook.ts';

export interface NotifierOptions {
  readonly store: Pick<ExportJobStore, 'claimNotification' | 'saveNotification'>;
  /** The id of this process in the store. */
  readonly worker: string;
  /** Undefined when mail is not configured. */
  readonly mailer: Mailer | undefined;
  readonly webhook: Webhook;
  readonly clock: Clock;
  readonly log: Log;
}

const MAX_CONCURRENT = 4;
/** The first pause. Each is twice as long as the one before, so all attempts take a bit more than an hour. */
const RETRY_MS = 30_000;
const MAX_ATTEMPTS = 8;
const SAVE_RETRY_MS = 2000;

/**
 * Delivers export notifications at least once and retries failed ones. Notifications of a process that died are
 * delivered by another.
 */
export class Notifier {
  readonly #options: NotifierOptions;
  readonly #deliveries = new Map<string, Promise<void>>();
  readonly #quit = new AbortController();

  constructor(options: NotifierOptions) {
    this.#options = options;
  }

  /**
   * Starts the deliveries that are due, without waiting for them.
   * @throws AppError `database_unavailable`
   */
  async notify(signal: AbortSignal): Promise<void> {
    const { store, worker, clock } = this.#options;
    while (this.#deliveries.size < MAX_CONCURRENT && !signal.aborted && !this.#quit.signal.aborted) {
      const running = [...this.#deliveries.keys()];
      const notification = await store.claimNotification(worker, clock.now(), running);
      if (!notification) return;
      const { id } = notification.job;
      const delivery = this.#deliver(notification).finally(() => this.#deliveries.delete(id));
      this.#deliveries.set(id, delivery);
    }
  }

  /** Aborts the deliveries; other processes, or the next start, deliver these notifications. */
  async stop(): Promise<void> {
    this.#quit.abort();
    await Promise.all(this.#deliveries.values());
  }

  /** Never rejects. */
  async #deliver(notification: JobNotification): Promise<void> {
    const { job, left, attempt } = notification;
    const retries = await Promise.all(
      left.map(async (channel) => ((await this.#isSettled(notification, channel)) ? [] : [channel])),
    );
    const remaining = retries.flat();
    const pauseMs = this.#quit.signal.aborted ? 0 : RETRY_MS * 2 ** (attempt - 1);
    const nextAt = this.#options.clock.now() + pauseMs;
    await this.#save(job.id, remaining, remaining.length > 0 ? nextAt : null);
  }

  /** Delivers by one channel. True when it was delivered or a retry is of no use. Never rejects. */
  async #isSettled({ job, attempt }: JobNotification, channel: NotifyChannel): Promise<boolean> {
    const { log } = this.#options;
    const fields = { export_id: job.id, channel, attempt };
    try {
      await this.#send(job, channel);
      log.info(fields, 'export notification sent');
      return true;
    } catch (error) {
      if (this.#quit.signal.aborted) {
        log.info(fields, 'export notification interrupted, another process will retry');
        return false;
      }
      const isFinal = attempt >= MAX_ATTEMPTS || (error instanceof DeliveryError && error.permanent);
      if (isFinal) log.error({ ...fields, err: error }, 'export notification failed, giving up');
      else log.warn({ ...fields, err: error }, 'export notification failed, will retry');
      return isFinal;
    }
  }

  async #send(job: JobNotification['job'], channel: NotifyChannel): Promise<void> {
    const { mailer, webhook } = this.#options;
    const target = job.request.notify[channel];
    if (target === null) return;
    if (channel === 'webhook') await webhook(job, target, this.#quit.signal);
    else if (mailer) await mailer.send(job, target, this.#quit.signal);
    else throw new DeliveryError('SMTP_URL is not set', { permanent: true });
  }

  /** Retries while the database is down: otherwise the notification would be sent again. */
  async #save(id: string, left: readonly NotifyChannel[], nextAt: number | null): Promise<void> {
    const { store, worker, log } = this.#options;
    for (;;) {
      try {
        await store.saveNotification(id, worker, left, nextAt);
        return;
      } catch (error) {
        log.warn({ err: error, export_id: id }, 'export notification not recorded');
        if (this.#quit.signal.aborted) return;
        await pause(SAVE_RETRY_MS, this.#quit.signal);
      }
    }
  }
}

/** Why notifications cannot be sent by this server; empty when they can. */
export function notificationErrors(
  { email, webhook }: ExportRequest['notify'],
  { hasMail, allowPrivate }: { readonly hasMail: boolean; readonly allowPrivate: boolean },
): FieldError[] {
  const errors: FieldError[] = [];
  if (email !== null && !hasMail) {
    errors.push({ path: 'notify.email', message: 'is not available: this server sends no mail (SMTP_URL)' });
  }
  const message = webhook === null ? undefined : webhookUrlError(webhook, allowPrivate);
  if (message !== undefined) errors.push({ path: 'notify.webhook', message });
  return errors;
}
