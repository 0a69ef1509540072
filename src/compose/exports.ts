import { join } from 'node:path';
import { Retention } from '../domain/conversations/retention.ts';
import { createExportFiles } from '../files/export-files.ts';
import { maskInSteps } from '../filter/index.ts';
import { presentJob } from '../http/response/export-presenters.ts';
import type { MailOptions } from '../notify/mail.ts';
import { Notifier, notificationErrors } from '../notify/notifier.ts';
import { createWebhook, webhookSecret } from '../notify/webhook.ts';
import { CursorCodec } from '../services/exports/cursor-codec.ts';
import { ExportService } from '../services/exports/exports.ts';
import { JobRunner } from '../services/exports/job-runner.ts';
import { ExportJobService } from '../services/exports/jobs.ts';
import type { ExportThrottle } from '../services/exports/throttle.ts';
import { ImportService } from '../services/imports/imports.ts';
import type { Core } from './core.ts';
import { composePurge } from './purge.ts';

/** Conversations that one import writes at the same time; turns need the connections too. */
const PARALLEL_IMPORTS = 2;

/** Exports, export jobs with their notifications, imports, and the purge. */
export async function composeExports(core: Core, throttle: ExportThrottle) {
  const { config, database, metrics, worker, clock, ids, log, secrets } = core;
  const retention = new Retention(config.chat.ttlMs);
  const cursors = new CursorCodec(secrets);
  const personal = { mask: (text: string) => maskInSteps(text), masked: config.piiMask.exports };
  const exports = new ExportService(database.exports, cursors, clock, retention, {
    personal,
    throttle,
    metrics,
  });
  const files = createExportFiles(join(config.dataDir, 'exports'));
  const store = database.exportJobs;
  const notifier = await composeNotifier(core);
  const notify = (signal: AbortSignal) => notifier.notify(signal);
  const jobRunner = new JobRunner({ store, files, exports, clock, worker, log, notify }, config.exports);
  const hasMail = config.notify.smtpUrl !== undefined;
  const { allowPrivate } = config.notify;
  const exportJobs = new ExportJobService({
    store,
    files,
    runner: jobRunner,
    clock,
    ids,
    notificationErrors: (notify) => notificationErrors(notify, { hasMail, allowPrivate }),
  });
  return {
    exports,
    cursors,
    exportJobs,
    imports: new ImportService(database.imports, clock, retention, PARALLEL_IMPORTS),
    jobRunner,
    notifier,
    purge: composePurge(config, database, clock, log),
  };
}

async function composeNotifier({ config, database, worker, clock, log, secrets }: Core): Promise<Notifier> {
  const { smtpUrl, mailFrom, allowPrivate } = config.notify;
  const webhook = createWebhook({
    secret: async () => webhookSecret((await secrets())[0] ?? ''),
    present: (job) => presentJob(job, clock.now()),
    allowPrivate,
    clock,
  });
  const mailer = smtpUrl === undefined ? undefined : await openMailer({ smtpUrl, from: mailFrom });
  return new Notifier({ store: database.exportJobs, worker, mailer, webhook, clock, log });
}

async function openMailer(options: MailOptions) {
  const { createMailer } = await import('../notify/mail.ts');
  return createMailer(options);
}
