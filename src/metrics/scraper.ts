import { setImmediate as nextTick } from 'node:timers/promises';
import type { Family, SnapshotStore, WorkerSnapshot } from '../domain/metrics.ts';
import type { Log } from '../domain/runtime.ts';
import { format, type LabelledFamilies, type TextFormat } from './exposition.ts';
import type { Instrument } from './instruments.ts';
import { askPeer, forgetPeer, type Listener, listenForPeers } from './peers.ts';
import type { ProcessMetrics } from './process-metrics.ts';

/**
 * How often a worker stores its metrics. A killed worker loses what it counted since. If others cannot ask it, it
 * stores more often.
 */
const SAVE_MS = 5000;
const SAVE_UNASKED_MS = 1000;
/** The longest work before other work of the event loop runs. */
const SLICE_MS = 5;
/** The size of a piece of the text, in bytes. */
const PIECE = 256 * 1024;
/** The most bytes of one UTF-16 unit in UTF-8. */
const MAX_BYTES = 3;
/** The label `worker` of the sums of workers that have ended. */
const ENDED = 'ended';

export interface ScraperParts {
  readonly instruments: readonly Instrument[];
  readonly process: ProcessMetrics;
  /** Undefined: it could not be opened, and a scrape shows this worker alone. */
  readonly store: SnapshotStore | undefined;
  /** The folder of the sockets. */
  readonly folder: string;
  readonly worker: string;
  readonly log: Log;
}

/** Responds to scrapes with the metrics of all workers of the host. */
export class Scraper {
  readonly #parts: ScraperParts;
  #listener: Listener | undefined;
  #timer: NodeJS.Timeout | undefined;
  #saving: Promise<readonly Family[]> | undefined;
  #nextSave: Promise<readonly Family[]> | undefined;
  #scraping: Promise<readonly LabelledFamilies[]> | undefined;
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
   * The metrics of all workers, in pieces. Scrapes at the same time share the work. Rejects when the metrics of other
   * workers cannot be read, because sums without them would decrease.
   */
  async scrape(as: TextFormat): Promise<string[]> {
    this.#scraping ??= this.#collect().finally(() => {
      this.#scraping = undefined;
    });
    return inPieces(format(await this.#scraping, as));
  }

  /** The metrics of this worker. */
  async scrapeOwn(as: TextFormat): Promise<string[]> {
    return inPieces(format([this.#labelled(await this.#read(true))], as));
  }

  /** Ends the saves, and adds this worker's counters to those of ended workers. */
  async close(): Promise<void> {
    const { store } = this.#parts;
    clearInterval(this.#timer);
    await this.#listener?.close();
    await this.#saving;
    await store?.end(await this.#read(false)).catch((error: unknown) => this.#saveFailed(error));
  }

  async #collect(): Promise<readonly LabelledFamilies[]> {
    const { store, folder, worker } = this.#parts;
    if (!store) return [this.#labelled(await this.#read(true))];
    const others = store.others();
    const [own] = await Promise.all([this.#save(), ...others.map((id) => askPeer(folder, id))]);
    const { workers, ended } = await store.read();
    const living = new Set(workers.map(({ id }) => id));
    for (const id of others) if (!living.has(id)) forgetPeer(folder, id);
    // This worker's own values are shown also when they could not be stored.
    const all = workers.map((one) => (one.id === worker ? { ...one, families: own } : one));
    return [...labelled(all), { worker: ENDED, families: ended }];
  }

  #labelled(families: readonly Family[]): LabelledFamilies {
    return { worker: String(this.#parts.store?.index ?? 0), families };
  }

  /** Stores values that are read after this call. Calls during a running save share the next one. */
  #save(): Promise<readonly Family[]> {
    if (!this.#saving) return this.#saveOnce(true);
    this.#nextSave ??= this.#saving.then(() => {
      this.#nextSave = undefined;
      return this.#save();
    });
    return this.#nextSave;
  }

  #saveOnce(isAsked: boolean): Promise<readonly Family[]> {
    this.#saving ??= this.#store(isAsked).finally(() => {
      this.#saving = undefined;
    });
    return this.#saving;
  }

  /** Never rejects. @returns the values, stored or not */
  async #store(isAsked: boolean): Promise<readonly Family[]> {
    const families = await this.#read(isAsked);
    try {
      await this.#parts.store?.save(families);
      this.#isFailing = false;
    } catch (error) {
      this.#saveFailed(error);
    }
    return families;
  }

  /** @param isAsked true for a scrape; otherwise libraries that only a scrape needs are not loaded */
  async #read(isAsked: boolean): Promise<readonly Family[]> {
    const { instruments, process } = this.#parts;
    const families: Family[] = [];
    let began = performance.now();
    for (const instrument of instruments) {
      families.push(await instrument.read(isAsked));
      if (performance.now() - began < SLICE_MS) continue;
      await nextTick();
      began = performance.now();
    }
    return [...families, ...(await process.read(isAsked))];
  }

  #saveFailed(error: unknown): void {
    if (!this.#isFailing) this.#parts.log.warn({ err: error }, 'metrics not stored');
    this.#isFailing = true;
  }
}

/** Two workers have the same index while one replaces the other. The label of the older one gets a suffix. */
function labelled(workers: readonly WorkerSnapshot[]): LabelledFamilies[] {
  const seen = new Map<number, number>();
  return workers.map(({ index, families }) => {
    const older = seen.get(index) ?? 0;
    seen.set(index, older + 1);
    return { worker: `${index}${['', '-old'][older] ?? `-old${older}`}`, families };
  });
}

/**
 * Collects the lines in a buffer. Adding them to a string takes twice the CPU time, most of it in garbage collection.
 */
async function inPieces(lines: Iterable<string>): Promise<string[]> {
  const pieces: string[] = [];
  let bytes = Buffer.allocUnsafe(PIECE);
  let length = 0;
  let began = performance.now();
  for (const line of lines) {
    const space = line.length * MAX_BYTES;
    if (length + space > bytes.length) {
      pieces.push(bytes.toString('utf8', 0, length));
      length = 0;
      if (space > bytes.length) bytes = Buffer.allocUnsafe(space);
      if (performance.now() - began > SLICE_MS) {
        await nextTick();
        began = performance.now();
      }
    }
    length += bytes.write(line, length);
  }
  return [...pieces, bytes.toString('utf8', 0, length)];
}
