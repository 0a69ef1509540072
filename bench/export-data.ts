/** Inserts Chinese and English messages directly into MariaDB or MySQL, half a million or more. */
import mysql from 'mysql2/promise';

const PER_CONVERSATION = 10;
const BATCH = 500;
/** Larger amounts are copies made in the database; the first two digits of the ids distinguish them. */
const BASE = 500_000;

const SENTENCES = [
  '请保存后重新启动服务，配置才会生效。',
  'The connection pool is shared by all readers, so a long export must not hold one of them.',
  '导出文件较大时，建议使用 NDJSON 格式并按月份分段。',
  'Formulas such as =SUM(A1:A9) are escaped, "quotes" are doubled, and lines\nmay be broken.',
  '谢谢，问题已经解决了！😀',
];

function text(n: number): string {
  let content = '';
  for (let i = 0; i < 2 + (n % 7); i += 1) content += `${SENTENCES[(n + i) % SENTENCES.length]} `;
  return content;
}

function id(prefix: string, n: number): string {
  const hex = n.toString(16).padStart(12, '0');
  return `00${prefix}-0000-7000-8000-${hex}`;
}

/** 2014-01-01 plus the minutes, so that copies are in the past too, in the database's format. */
function time(minutes: number): string {
  return new Date(Date.UTC(2014, 0, 1) + minutes * 60_000).toISOString().replace('T', ' ').slice(0, 23);
}

/**
 * @param messages a multiple of BASE, or less than BASE
 * @param isNumbered false: in a schema without `seq`
 */
export async function fill(url: string, messages: number, isNumbered = true): Promise<void> {
  const connection = await mysql.createConnection(url);
  try {
    await connection.query('SET SESSION foreign_key_checks = 0, unique_checks = 0');
    const base = Math.min(messages, BASE);
    for (let from = 0; from < base; from += BATCH * PER_CONVERSATION) {
      await fillBatch(connection, from, base, isNumbered);
    }
    for (let copy = 1; copy < messages / BASE; copy += 1) await copyAll(connection, copy, isNumbered);
    await connection.query('ANALYZE TABLE conversations, messages');
  } finally {
    await connection.end();
  }
}

async function fillBatch(
  connection: mysql.Connection,
  from: number,
  until: number,
  isNumbered: boolean,
): Promise<void> {
  const conversations: (string | number)[][] = [];
  const rows: (string | number)[][] = [];
  for (let n = from; n < Math.min(until, from + BATCH * PER_CONVERSATION); n += 1) {
    const c = Math.floor(n / PER_CONVERSATION);
    const conversation = id('c0ffee', c);
    const seq = (n % PER_CONVERSATION) + 1;
    if (seq === 1) {
      conversations.push([conversation, time(c), time(c + 9), ...(isNumbered ? [PER_CONVERSATION] : [])]);
    }
    const role = n % 2 === 0 ? 'user' : 'assistant';
    const content = text(n);
    const at = time(c + (n % PER_CONVERSATION));
    const row = [id('feed00', n), conversation, role, content, at, 'complete', at, content.length];
    rows.push([...row, ...(isNumbered ? [seq] : [])]);
  }
  const [lastSeq, ofMessage] = isNumbered ? [', last_seq', ', seq'] : ['', ''];
  await connection.query(`INSERT INTO conversations (id, created_at, last_active${lastSeq}) VALUES ?`, [
    conversations,
  ]);
  await connection.query(
    `INSERT INTO messages (uid, conversation_id, role, content, timestamp, status, updated_at, length${ofMessage})
     VALUES ?`,
    [rows],
  );
}

/** Copies the base; the times of each copy are a year later than those of the previous one. */
async function copyAll(connection: mysql.Connection, copy: number, isNumbered: boolean): Promise<void> {
  const digits = copy.toString(16).padStart(2, '0');
  const copied = (column: string) => `CONCAT('${digits}', SUBSTRING(${column}, 3))`;
  const later = (column: string) => `DATE_ADD(${column}, INTERVAL ${copy} YEAR)`;
  const [lastSeq, seq] = isNumbered ? [', last_seq', ', seq'] : ['', ''];
  await connection.query(
    `INSERT INTO conversations (id, created_at, last_active${lastSeq})
     SELECT ${copied('id')}, ${later('created_at')}, ${later('last_active')}${lastSeq}
     FROM conversations WHERE id LIKE '00%'`,
  );
  await connection.query(
    `INSERT INTO messages (uid, conversation_id, role, content, timestamp, status, updated_at, length${seq})
     SELECT ${copied('uid')}, ${copied('conversation_id')}, role, content, ${later('timestamp')}, status,
       ${later('updated_at')}, length${seq} FROM messages WHERE uid LIKE '00%' ORDER BY id`,
  );
}

/** The last `created_at` of the first `conversations` conversations of the base. */
export function lastCreatedOf(conversations: number): string {
  return new Date(Date.UTC(2014, 0, 1) + (conversations - 1) * 60_000).toISOString();
}
