import type Sqlite from 'better-sqlite3';

/** An entry as it is stored. */
export interface StoredEntry {
  readonly seq: number;
  readonly conversation_id: string;
  readonly question_uid: string | null;
  readonly reply_uid: string | null;
  readonly body: string;
  readonly bytes: number;
}

export interface Total {
  readonly turns: number;
  readonly bytes: number;
}

const COLUMNS = 'seq, conversation_id, question_uid, reply_uid, body, bytes, at';

export function prepareStatements(file: Sqlite.Database) {
  return {
    insert: file.prepare<[string, string | null, string | null, string, number, number]>(
      `INSERT INTO entries (conversation_id, question_uid, reply_uid, body, bytes, at) VALUES (?, ?, ?, ?, ?, ?)`,
    ),
    oldest: file.prepare<[number], StoredEntry>(`SELECT ${COLUMNS} FROM entries ORDER BY seq LIMIT ?`),
    oldestAt: file.prepare<[], number>('SELECT at FROM entries ORDER BY seq LIMIT 1').pluck(),
    hasEntries: file.prepare<[], number>('SELECT EXISTS (SELECT 1 FROM entries)').pluck(),
    hasConversation: file
      .prepare<[string], number>('SELECT 1 FROM entries WHERE conversation_id = ? LIMIT 1')
      .pluck(),
    bodies: file
      .prepare<[string], string>('SELECT body FROM entries WHERE conversation_id = ? ORDER BY seq')
      .pluck(),
    reply: file
      .prepare<[string], string>('SELECT body FROM entries WHERE reply_uid = ? ORDER BY seq DESC LIMIT 1')
      .pluck(),
    total: file.prepare<[], Total>('SELECT turns, bytes FROM total'),
    remove: file.prepare<[string]>('DELETE FROM entries WHERE seq IN (SELECT value FROM json_each(?))'),
    moveToRejected: file.prepare<[string, number]>(
      `INSERT INTO rejected (${COLUMNS}, reason) SELECT ${COLUMNS}, ? FROM entries WHERE seq = ?`,
    ),
    wasRejected: file
      .prepare<[string, string, string], number>(
        'SELECT 1 FROM rejected WHERE conversation_id = ? AND (question_uid = ? OR reply_uid = ?) LIMIT 1',
      )
      .pluck(),
    drop: file.prepare<[string]>('DELETE FROM entries WHERE conversation_id = ?'),
    dropRejected: file.prepare<[string]>('DELETE FROM rejected WHERE conversation_id = ?'),
  };
}
