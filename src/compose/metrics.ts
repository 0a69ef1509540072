import { join } from 'node:path';
import type { Config } from '../config/config.ts';
import { MetricsStore } from '../db/workers/metrics-store.ts';
import type { SnapshotStore } from '../domain/metrics.ts';
import type { ScrapeMetrics } from '../http/routes/metrics.ts';
import type { Logger } from '../logger.ts';
import { addTotals, CONTENT_TYPES, type TextFormat } from '../metrics/exposition.ts';
import { ProcessMetrics } from '../metrics/process-metrics.ts';
import { Scraper } from '../metrics/scraper.ts';
import { type Readers, ServerMetrics } from '../metrics/server-metrics.ts';
import { within } from '../util/timers.ts';
import type { Core } from './core.ts';
import type { Storage } from './storage.ts';

/** A scrape waits this long for the database. */
const COUNT_TIMEOUT_MS = 500;

export interface RecordedMetrics {
  readonly metrics: ServerMetrics;
  /** Gives names of models a place among those of the host. Before, every process counts its own. */
  share(store: SnapshotStore): void;
}

/** What is recorded from the start, also while nothing can be shared or scraped. */
export function recordMetrics(config: Config, version: string): RecordedMetrics {
  let store: SnapshotStore | undefined;
  const metrics = new ServerMetrics({
    version,
    serverAddress: modelServerOf(config),
    newNames: config.metrics.newGenAiNames,
    admitModel: (kind, name) => store?.admitModel(kind, name) ?? true,
  });
  // Callers cannot take its place.
  const share = (shared: SnapshotStore) => {
    store = shared;
    shared.admitModel('request', config.chat.model);
  };
  return { metrics, share };
}

/** The host of the model server, for labels. */
export function modelServerOf({ model }: Config): string {
  return new URL(model.baseUrl ?? 'https://api.openai.com').hostname;
}

type ScrapedParts = Pick<Readers, 'generations' | 'circuits'>;

/**
 * Scrapes of all workers of the host, and of this one.
 * @param opened gets what closes it
 */
export async function composeScrapes(
  core: Core,
  { metrics, share }: RecordedMetrics,
  parts: ScrapedParts,
  opened: AsyncDisposableStack,
) {
  const { config, database, writer, isDatabaseUp, worker, clock, log } = core;
  const folder = join(config.dataDir, 'metrics');
  const store = await openStore(core, folder, log);
  if (store) {
    share(store);
    opened.defer(() => store.close());
  }
  const instruments = metrics.instruments({
    ...parts,
    journal: () => writer.state(),
    now: () => clock.now(),
    isDatabaseUp,
    pool: () => ({ ...database.connections() }),
    exportJobs: () =>
      within<Record<string, number> | undefined>(
        COUNT_TIMEOUT_MS,
        database.exportJobs.countByStatus(),
        () => undefined,
      ).catch(() => undefined),
  });
  const scraper = new Scraper({ instruments, process: new ProcessMetrics(), store, folder, worker, log });
  await scraper.start();
  opened.defer(() => scraper.close());
  const scrapeOf =
    (piecesIn: (format: TextFormat) => Promise<string[]>): ScrapeMetrics =>
    async (format) => ({ type: CONTENT_TYPES[format], pieces: await piecesIn(format) });
  const scrape = scrapeOf((format) => scraper.scrape(format));
  const scrapeOwn = scrapeOf((format) => scraper.scrapeOwn(format));
  return { scrape, scrapeOwn, index: store?.index ?? config.metrics.workerIndex ?? 0 };
}

async function openStore(
  { config, isAlive, worker }: Pick<Storage, 'isAlive'> & Pick<Core, 'config' | 'worker'>,
  folder: string,
  log: Logger,
): Promise<MetricsStore | undefined> {
  if (!isAlive) return undefined;
  const path = join(folder, 'metrics.sqlite');
  const index = config.metrics.workerIndex;
  try {
    return await MetricsStore.open({ path, worker, index, isAlive, add: addTotals });
  } catch (error) {
    log.warn({ err: error, folder }, 'metrics cannot be shared with other workers');
    return undefined;
  }
}
