import cluster from 'node:cluster';
import { AppError } from '../domain/errors.ts';
import type { Log } from '../domain/runtime.ts';
import type { HttpServer } from '../http/server/server.ts';
import { within } from '../util/timers.ts';

/** After the grace period: when replies that the database does not take go to the journal. */
const JOURNAL_AFTER_MS = 1500;
/** After the grace period: when connections are closed and running work is left to other processes. */
const CLOSE_AFTER_MS = 2000;
/** After the grace period: the end of the shutdown. With the exit of the process it stays below 3 s. */
export const END_AFTER_MS = 2600;

/**
 * How long idle connections may still send a request. In a cluster (PM2) other workers serve the port meanwhile, and
 * a client that is busy reuses a connection within this time. Otherwise shorter, because an idle connection of a browser
 * delays Ctrl-C.
 */
const IDLE_MS = cluster.isWorker ? 5000 : 1000;

interface Stoppable {
  readonly health: { stop(): void };
  readonly server: HttpServer;
  readonly generations: { idle(): Promise<void>; abortAll(reason: AppError): void };
  /** Running turns. */
  readonly turns: { idle(): Promise<void> };
  readonly writer: { abandonDatabase(): void };
  /** What runs besides requests; each `stop` aborts its work. */
  readonly background: readonly { stop(): Promise<void> }[];
  /** Everything that the start has opened. */
  readonly opened: AsyncDisposableStack;
}

/**
 * Closes the port, stops background work and finishes running replies at the same time, then closes what was opened.
 * Takes at most the grace period and END_AFTER_MS, whatever does not respond.
 */
export async function shutDown(parts: Stoppable, graceMs: number, log: Pick<Log, 'warn'>): Promise<void> {
  const end = performance.now() + graceMs + END_AFTER_MS;
  parts.health.stop();
  const { closed, force } = parts.server.close(Math.min(IDLE_MS, graceMs / 2));
  const background = Promise.all(parts.background.map((one) => one.stop()));
  const replies = Promise.all([parts.generations.idle(), parts.turns.idle()]);
  const finished = Promise.all([closed, replies, background]).then(() => true);
  finished.catch(() => {});
  if (!(await within(graceMs, finished, () => false))) await breakOff(parts, finished);
  force();
  const closing = parts.opened.disposeAsync().then(() => true);
  closing.catch(() => {});
  const inTime = await within(Math.max(0, end - performance.now()), closing, () => false);
  if (!inTime) log.warn({ grace_ms: graceMs }, 'shutdown deadline reached, connections left open');
}

/** Aborts the running replies and saves what there is of them, in the journal when the database does not respond. */
async function breakOff({ generations, writer }: Stoppable, finished: Promise<boolean>): Promise<void> {
  generations.abortAll(
    new AppError('shutting_down', 'This server is shutting down; ask again in a moment', { retryAfter: 3 }),
  );
  if (await within(JOURNAL_AFTER_MS, finished, () => false)) return;
  writer.abandonDatabase();
  await within(CLOSE_AFTER_MS - JOURNAL_AFTER_MS, finished, () => false);
}

/** Closes what a failed start has opened. A part that does not respond is left behind. */
export async function closeOpened(opened: AsyncDisposableStack, log: Pick<Log, 'warn'>): Promise<void> {
  const closed = opened.disposeAsync().then(
    () => true,
    (error: unknown) => {
      log.warn({ err: error }, 'could not close everything');
      return true;
    },
  );
  await within(CLOSE_AFTER_MS, closed, () => false);
}
