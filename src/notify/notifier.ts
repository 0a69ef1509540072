import type { FieldError } from '../domain/errors.ts';
import type { ExportJobStore, ExportRequest, JobNotification, NotifyChannel } from '../domain/export-jobs.ts';
import type { Clock, Log } from '../domain/runtime.ts';
import { pause } from '../util/timers.ts';
import { DeliveryError } from './delivery-error.ts';
import type { Mailer } from './mail.ts';
import { type Webhook, webhookUrlError } from './webhook.ts';

interface NotifierParts {
  readonly store: Pick<ExportJobStore, 'claimNotification' | 'saveNotification'>;
  /** This process, as the store knows it. */
  readonly worker: string;
  /** Undefined: no mail is possible. */
  readonly mailer: Mailer | undefined;
  readonly webhook: Webhook;
  readonly clock: Clock;
  readonly log: Log;
}

/** Of this process at once. */
const MOST = 4;
/** The first pause; each one is twice as long as the one before, so that all tries take a bit over an hour. */
const PAUSE_MS = 30_000;
const TRIES = 8;
const SAVE_AGAIN_MS = 2000;

/**
 * Tells those who asked for it that an export has ended: at least once, and again later where it was in vain. Whom a
 * process was telling when it died is told by another.
 */
export class Notifier {
  readonly #parts: NotifierParts;
  readonly #underWay = new Map<string, Promise<void>>();
  readonly #quit = new AbortController();

  constructor(parts: NotifierParts) {
    this.#parts = parts;
  }

  /**
   * Begins to tell what is to be told by now and does not wait for the end of it.
   * @throws AppError `database_unavailable`
   */
  async notify(signal: AbortSignal): Promise<void> {
    const { store, worker, clock } = this.#parts;
    while (this.#underWay.size < MOST && !signal.aborted && !this.#quit.signal.aborted) {
      const known = [...this.#underWay.keys()];
      const notification = await store.claimNotification(worker, clock.now(), known);
      if (!notification) return;
      const { id } = notification.job;
      this.#underWay.set(
        id,
        this.#tell(notification).finally(() => this.#underWay.delete(id)),
      );
    }
  }

  /** Waits for what is under way, each of which has its time limit. {@link notify} begins nothing any more. */
  async close(): Promise<void> {
    this.#quit.abort();
    await Promise.all(this.#underWay.values());
  }

  /** Never rejects. */
  async #tell(notification: JobNotification): Promise<void> {
    const { job, left, attempt } = notification;
    const { clock } = this.#parts;
    const failed = await Promise.all(
      left.map(async (channel) => ((await this.#told(notification, channel)) ? [] : [channel])),
    );
    const again = failed.flat();
    const wait = PAUSE_MS * 2 ** (attempt - 1);
    await this.#save(job.id, again, again.length > 0 ? clock.now() + wait : null);
  }

  /** True also when there is no use in another try. Never rejects. */
  async #told({ job, attempt }: JobNotification, channel: NotifyChannel): Promise<boolean> {
    const { log } = this.#parts;
    const fields = { export_id: job.id, channel, attempt };
    try {
      await this.#deliver(job, channel);
      log.info(fields, 'somebody was told that an export has ended');
      return true;
    } catch (error) {
      const over = attempt >= TRIES || (error instanceof DeliveryError && error.permanent);
      const gone = { ...fields, err: error };
      if (over) log.error(gone, 'nobody could be told that an export has ended; that is given up');
      else log.warn(gone, 'nobody could be told yet that an export has ended; it is tried again');
      return over;
    }
  }

  async #deliver(job: JobNotification['job'], channel: NotifyChannel): Promise<void> {
    const { mailer, webhook } = this.#parts;
    const target = job.request.notify[channel];
    if (target === null) return;
    if (channel === 'webhook') await webhook(job, target);
    else if (mailer) await mailer.send(job, target);
    else throw new DeliveryError('SMTP_URL is not set', true);
  }

  /** While the database is away it is known here only who was told. */
  async #save(id: string, left: readonly NotifyChannel[], nextAt: number | null): Promise<void> {
    const { store, worker, log } = this.#parts;
    for (;;) {
      try {
        await store.saveNotification(id, worker, left, nextAt);
        return;
      } catch (error) {
        log.warn({ err: error, export_id: id }, 'it could not be noted who was told of an export');
        if (this.#quit.signal.aborted) return;
        await pause(SAVE_AGAIN_MS, this.#quit.signal);
      }
    }
  }
}

/** What of that cannot be done here, for whoever asks for it; empty when all of it can. */
export function notificationErrors(
  { email, webhook }: ExportRequest['notify'],
  possible: { readonly mail: boolean; readonly allowPrivate: boolean },
): FieldError[] {
  const faults: FieldError[] = [];
  if (email !== null && !possible.mail) {
    faults.push({ path: 'notify.email', message: 'is not possible: this server sends no mail (SMTP_URL)' });
  }
  const fault = webhook === null ? undefined : webhookUrlError(webhook, possible.allowPrivate);
  if (fault !== undefined) faults.push({ path: 'notify.webhook', message: fault });
  return faults;
}
