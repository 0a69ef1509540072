/** The journal's SQLite file and its schema. */
import { dirname } from 'node:path';
import Sqlite from 'better-sqlite3';
import { makeFolder } from '../../util/folders.ts';

const VERSION = 1;
const PAGE_BYTES = 4096;
/**
 * The file may be larger than the limit of entries: it also has indexes, rejected entries, and ends of replies beyond
 * the limit.
 */
const FILE_SHARE = 2;
const FILE_EXTRA_BYTES = 16 * 1024 * 1024;

/** Triggers maintain `total`, because a sum over a full journal takes longer than a write to it. */
const SCHEMA = `
  CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation_id TEXT NOT NULL,
    question_uid TEXT,
    reply_uid TEXT,
    body TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    at INTEGER NOT NULL
  );
  CREATE INDEX entries_conversation ON entries (conversation_id);
  CREATE INDEX entries_reply ON entries (reply_uid);
  CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    question_uid TEXT,
    reply_uid TEXT,
    body TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL
  );
  CREATE INDEX rejected_conversation ON rejected (conversation_id);
  CREATE TABLE total (turns INTEGER NOT NULL, bytes INTEGER NOT NULL);
  INSERT INTO total VALUES (0, 0);
  CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    UPDATE total SET turns = turns + 1, bytes = bytes + NEW.bytes;
  END;
  CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
    UPDATE total SET turns = turns - 1, bytes = bytes - OLD.bytes;
  END;
  PRAGMA user_version = ${VERSION};
`;

/**
 * Opens the file; creates its folder and tables if they are missing. The size of the file is limited to twice
 * `maxBytes` and 16 MiB. Does not wait for a lock, because that would block the event loop.
 * @throws the driver's error, also when the file is locked; Error when a newer version of this program wrote the file
 */
export function openJournalFile(path: string, maxBytes: number): Sqlite.Database {
  makeFolder(dirname(path));
  const file = new Sqlite(path, { timeout: 0 });
  try {
    file.pragma('journal_mode = WAL');
    file.pragma('synchronous = FULL');
    file.pragma(`max_page_count = ${Math.ceil((maxBytes * FILE_SHARE + FILE_EXTRA_BYTES) / PAGE_BYTES)}`);
    // Only a file without tables must be locked.
    if (versionOf(file) !== VERSION) file.transaction(prepare).immediate(file);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

function prepare(file: Sqlite.Database): void {
  const version = versionOf(file);
  if (version === 0) file.exec(SCHEMA);
  else if (version !== VERSION) throw new Error(`the journal has an unknown version (${String(version)})`);
}

function versionOf(file: Sqlite.Database): unknown {
  return file.pragma('user_version', { simple: true });
}

/** Whether the error concerns one row, so that other rows can still be written. False for an error of the file. */
export function isRowError(error: unknown): boolean {
  if (!(error instanceof Sqlite.SqliteError)) return true;
  return /^SQLITE_(FULL|TOOBIG|CONSTRAINT|MISMATCH)/.test(error.code);
}
