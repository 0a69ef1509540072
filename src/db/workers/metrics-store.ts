import { dirname } from 'node:path';
import Sqlite, { type Database } from 'better-sqlite3';
import {
  type Family,
  type HostSnapshot,
  MAX_MODEL_NAMES,
  type ModelKind,
  type SnapshotStore,
  type WorkerSnapshot,
} from '../../domain/metrics.ts';
import { makeFolder } from '../../util/folders.ts';
import { withFileLockRetry } from '../core/errors.ts';

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS snapshots (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "index" INTEGER NOT NULL, families TEXT NOT NULL
  );
  CREATE TABLE IF NOT EXISTS totals (families TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS models (kind TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (kind, name));
`;

const LOCK_WAIT_MS = 500;

/** As JSON. */
interface Stored {
  readonly families: string;
}

export interface MetricsStoreOptions {
  readonly path: string;
  /** This process. */
  readonly worker: string;
  /** Its place, where a process manager has given it one; else the lowest free place. */
  readonly index: number | undefined;
  readonly isAlive: (worker: string) => boolean;
  /** Adds up counters. */
  readonly add: (ended: readonly Family[], families: readonly Family[]) => Family[];
}

/**
 * The metrics of the workers of one host, in a SQLite file that they share. A dead worker's row is deleted in the
 * transaction that adds its counters to those of ended workers, so they count once. Values that were read once are on
 * disk, so the sums never decrease; they begin anew when all workers have ended.
 */
export class MetricsStore implements SnapshotStore {
  readonly #file: Database;
  readonly #options: MetricsStoreOptions;
  #index = 0;
  /** The names, where no place is left. */
  readonly #full = new Map<ModelKind, ReadonlySet<string>>();

  private constructor(file: Database, options: MetricsStoreOptions) {
    this.#file = file;
    this.#options = options;
  }

  /** Rejects with the driver's error. */
  static async open(options: MetricsStoreOptions): Promise<MetricsStore> {
    makeFolder(dirname(options.path));
    const file = new Sqlite(options.path, { timeout: 0 });
    try {
      await withFileLockRetry(async () => {
        file.pragma('journal_mode = WAL');
        // The numbers of a host that crashed are not needed.
        file.pragma('synchronous = OFF');
        file.exec(SCHEMA);
      });
      const store = new MetricsStore(file, options);
      store.#index = await store.#write(() => store.#register());
      return store;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  get index(): number {
    return this.#index;
  }

  save(families: readonly Family[]): Promise<void> {
    const json = JSON.stringify(families);
    return this.#write(() => {
      this.#file.prepare('UPDATE snapshots SET families = ? WHERE id = ?').run(json, this.#options.worker);
    });
  }

  others(): readonly string[] {
    return this.#listed().flatMap(({ id }) => (id === this.#options.worker ? [] : id));
  }

  async read(): Promise<HostSnapshot> {
    // While the file is locked, a dead worker is shown as it was.
    if (this.#dead().length > 0) await this.#write(() => this.#addDead()).catch(() => {});
    // One transaction, so that no worker is seen twice or not at all.
    return this.#file.transaction(() => ({ workers: this.#workers(), ended: this.#ended() }))();
  }

  end(families: readonly Family[]): Promise<void> {
    return this.#write(() => this.#addToTotals(this.#options.worker, families));
  }

  /** Without waiting: while another worker writes, the name gets its place with a later call. */
  admitModel(kind: ModelKind, name: string): boolean {
    const full = this.#full.get(kind);
    if (full) return full.has(name);
    try {
      const names = this.#models(kind);
      if (names.has(name)) return true;
      if (names.size >= MAX_MODEL_NAMES) this.#full.set(kind, names);
      else this.#file.prepare('INSERT OR IGNORE INTO models VALUES (?, ?)').run(kind, name);
      return names.size < MAX_MODEL_NAMES;
    } catch {
      return false;
    }
  }

  close(): void {
    this.#file.close();
  }

  /** Other workers write for a few milliseconds. Waiting longer would delay the scrape. */
  #write<T>(work: () => T): Promise<T> {
    return withFileLockRetry(async () => this.#file.transaction(work).immediate(), LOCK_WAIT_MS);
  }

  #register(): number {
    const { worker, index: wanted, isAlive } = this.#options;
    const living = this.#listed().filter(({ id }) => isAlive(id));
    if (living.length > 0) this.#addDead();
    else this.#file.exec('DELETE FROM snapshots; DELETE FROM totals; DELETE FROM models');
    const taken = new Set(living.map(({ index }) => index));
    let index = wanted ?? 0;
    while (wanted === undefined && taken.has(index)) index += 1;
    this.#file
      .prepare(`INSERT INTO snapshots (id, "index", families) VALUES (?, ?, '[]')`)
      .run(worker, index);
    return index;
  }

  #dead(): string[] {
    const { worker, isAlive } = this.#options;
    return this.#listed().flatMap(({ id }) => (id === worker || isAlive(id) ? [] : id));
  }

  #addDead(): void {
    const stored = this.#file.prepare<[string], Stored>('SELECT families FROM snapshots WHERE id = ?');
    for (const id of this.#dead()) this.#addToTotals(id, parse(stored.get(id)));
  }

  #addToTotals(id: string, families: readonly Family[]): void {
    const { changes } = this.#file.prepare('DELETE FROM snapshots WHERE id = ?').run(id);
    if (changes === 0) return;
    const total = this.#options.add(this.#ended(), families);
    this.#file.exec('DELETE FROM totals');
    this.#file.prepare('INSERT INTO totals VALUES (?)').run(JSON.stringify(total));
  }

  #listed(): Pick<WorkerSnapshot, 'id' | 'index'>[] {
    return this.#file
      .prepare<[], Pick<WorkerSnapshot, 'id' | 'index'>>('SELECT id, "index" FROM snapshots')
      .all();
  }

  #workers(): WorkerSnapshot[] {
    return this.#file
      .prepare<[string], Omit<WorkerSnapshot, 'families'> & Stored>(
        `SELECT id, "index", CASE id WHEN ? THEN '[]' ELSE families END AS families
        FROM snapshots ORDER BY "index", seq DESC`,
      )
      .all(this.#options.worker)
      .map((row) => ({ ...row, families: parse(row) }));
  }

  #ended(): Family[] {
    return parse(this.#file.prepare<[], Stored>('SELECT families FROM totals').get());
  }

  #models(kind: ModelKind): Set<string> {
    const rows = this.#file
      .prepare<[string], { name: string }>('SELECT name FROM models WHERE kind = ?')
      .all(kind);
    return new Set(rows.map(({ name }) => name));
  }
}

/** Only {@link MetricsStore} writes into the file. */
function parse(row: Stored | undefined): Family[] {
  return row ? JSON.parse(row.families) : [];
}
