/** The journal's SQLite file and its schema. */
import { dirname } from 'node:path';
import Sqlite from 'better-sqlite3';
import { makeFolder } from '../../util/folders.ts';

const VERSION = 1;
const PAGE_BYTES = 4096;
/** Room beyond the limit of entries: rejected entries, indexes, and the ends of replies that arrive after it. */
const FILE_SHARE = 2;
const FILE_EXTRA_BYTES = 16 * 1024 * 1024;

/** Triggers maintain `total`: summing up a full journal costs more than writing to it. */
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
 * Creates folder and tables where they are missing. The size of the file is limited somewhat above `maxBytes`. Waits
 * for no lock, because that would block the event loop.
 * @throws the driver's error, also when the file is locked; Error when a newer version of this program wrote the file
 */
export function openJournalFile(path: string, maxBytes: number): Sqlite.Database {
  makeFolder(dirname(path));
  const file = new Sqlite(path, { timeout: 0 });
  try {
    file.pragma('journal_mode = WAL');
    file.pragma('synchronous = FULL');
    file.pragma(`max_page_count = ${Math.ceil((maxBytes * FILE_SHARE + FILE_EXTRA_BYTES) / PAGE_BYTES)}`);
    // A file that is ready needs no lock.
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

/** Whether the row caused the error, so that other rows can still be written; false when the file did. */
export function isRowError(error: unknown): boolean {
  if (!(error instanceof Sqlite.SqliteError)) return true;
  return /^SQLITE_(FULL|TOOBIG|CONSTRAINT|MISMATCH)/.test(error.code);
}
