import { setImmediate as nextTick } from 'node:timers/promises';
import type { SnapshotStore, WorkerSnapshot } from '../domain/metrics.ts';
import type { Log } from '../domain/runtime.ts';
import { mergeWorkers, type TextFormat, withLabel } from './exposition.ts';
import type { Instrument } from './instruments.ts';
import { askPeer, forgetPeer, type Listener, listenForPeers } from './peers.ts';
import type { ProcessMetrics } from './process-metrics.ts';

/** How much a killed worker loses. A worker that others cannot ask stores its metrics more often. */
const SAVE_MS = 5000;
const SAVE_UNASKED_MS = 1000;
/** Work of one tick. */
const SLICE_MS = 5;

export interface ScraperParts {
  readonly instruments: readonly Instrument[];
  readonly process: ProcessMetrics;
  /** Undefined: it could not be opened, and a scrape shows this worker alone. */
  readonly store: SnapshotStore | undefined;
  /** Of the sockets. */
  readonly folder: string;
  readonly worker: string;
  readonly log: Log;
}

/** Answers scrapes with the metrics of all workers of the host. */
export class Scraper {
  readonly #parts: ScraperParts;
  #listener: Listener | undefined;
  #timer: NodeJS.Timeout | undefined;
  #saving: Promise<string> | undefined;
  #nextSave: Promise<string> | undefined;
  #scraping: Promise<readonly string[]> | undefined;
  #isFailing = false;

  constructor(parts: ScraperParts) {
    this.#parts = parts;
  }

  /** Starts to store this worker's metrics. */
  async start(): Promise<void> {
    const { store, folder, worker } = this.#parts;
    if (!store) return;
    this.#listener = await listenForPeers(folder, worker, () => this.#save());
    const save = () => void this.#saveOnce(false);
    this.#timer = setInterval(save, this.#listener.isListening ? SAVE_MS : SAVE_UNASKED_MS).unref();
  }

  /**
   * The metrics of all workers. Scrapes at the same time share the work. Rejects when those of the others cannot be
   * read: without them, sums would decrease.
   */
  async scrape(format: TextFormat): Promise<string> {
    this.#scraping ??= this.#collect().finally(() => {
      this.#scraping = undefined;
    });
    return this.#merged(await this.#scraping, format);
  }

  /** The metrics of this worker. */
  async scrapeOwn(format: TextFormat): Promise<string> {
    return this.#merged([await this.#render(true)], format);
  }

  /** Leaves the counters to the other workers. */
  async close(): Promise<void> {
    const { store } = this.#parts;
    clearInterval(this.#timer);
    await this.#listener?.close();
    await this.#saving;
    await store?.end(await this.#render(false)).catch((error: unknown) => this.#saveFailed(error));
  }

  async #collect(): Promise<readonly string[]> {
    const { store, folder, worker } = this.#parts;
    if (!store) return [await this.#render(true)];
    const others = store.others();
    const [own] = await Promise.all([this.#save(), ...others.map((id) => askPeer(folder, id))]);
    const { workers, ended } = await store.read();
    const living = new Set(workers.map(({ id }) => id));
    for (const id of others) if (!living.has(id)) forgetPeer(folder, id);
    // This worker's own values are shown also when they could not be stored.
    const texts = workers.map((one) => (one.id === worker ? { ...one, text: own } : one));
    return [...distinct(texts), ended];
  }

  /** Each call stores values that are read after it; calls while one is running share the next one. */
  #save(): Promise<string> {
    if (!this.#saving) return this.#saveOnce(true);
    this.#nextSave ??= this.#saving.then(() => {
      this.#nextSave = undefined;
      return this.#save();
    });
    return this.#nextSave;
  }

  #saveOnce(isAsked: boolean): Promise<string> {
    this.#saving ??= this.#store(isAsked).finally(() => {
      this.#saving = undefined;
    });
    return this.#saving;
  }

  /** Never rejects. @returns the text, stored or not */
  async #store(isAsked: boolean): Promise<string> {
    const text = await this.#render(isAsked);
    try {
      await this.#parts.store?.save(text);
      this.#isFailing = false;
    } catch (error) {
      this.#saveFailed(error);
    }
    return text;
  }

  /** @param isAsked whether this is a scrape; else libraries for that are not loaded */
  async #render(isAsked: boolean): Promise<string> {
    const { instruments, process, store } = this.#parts;
    const label = String(store?.index ?? 0);
    let text = '';
    let began = performance.now();
    for (const instrument of instruments) {
      text += await instrument.text(label, isAsked);
      if (performance.now() - began < SLICE_MS) continue;
      await nextTick();
      began = performance.now();
    }
    return text + (await process.text(label, isAsked));
  }

  async #merged(texts: readonly string[], format: TextFormat): Promise<string> {
    let text = '';
    let began = performance.now();
    for (const part of mergeWorkers(texts, format)) {
      text += part;
      if (performance.now() - began < SLICE_MS) continue;
      await nextTick();
      began = performance.now();
    }
    return text;
  }

  #saveFailed(error: unknown): void {
    if (!this.#isFailing) this.#parts.log.warn({ err: error }, 'metrics not stored');
    this.#isFailing = true;
  }
}

/** A worker that is being replaced gets a label of its own, so that no two series are equal. */
function distinct(workers: readonly WorkerSnapshot[]): string[] {
  const seen = new Map<number, number>();
  return workers.map(({ index, text }) => {
    const older = seen.get(index) ?? 0;
    seen.set(index, older + 1);
    return older === 0 ? text : withLabel(text, `${index}-old${older === 1 ? '' : older}`);
  });
}
