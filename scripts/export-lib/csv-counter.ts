import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parse } from 'csv-parse';
import { EXPORT_COLUMNS, escapeFormula, unescapeFormula } from '../../src/services/exports/encoders.ts';
import { addMessage, type Counter, endingWith, noCounts } from './counts.ts';
import { copies } from './unpack.ts';

const BOM = '\uFEFF';
const CONVERSATION = EXPORT_COLUMNS.indexOf('conversation_id');
const MESSAGE = EXPORT_COLUMNS.indexOf('message_id');
const CONTENT = EXPORT_COLUMNS.indexOf('content');

/** Counts the rows of a CSV (RFC 4180) with byte order mark and escaped formulas. */
export const countCsv: Counter = (blocks) => countRows(blocks, true);

/** Counts the rows of a CSV (RFC 4180) without these. */
export const countRawCsv: Counter = (blocks) => countRows(blocks, false);

async function countRows(blocks: AsyncIterable<Buffer>, isEscaped: boolean) {
  const counts = noCounts();
  const header = (isEscaped ? BOM : '') + EXPORT_COLUMNS.join();
  let rows = 0;
  let last = '';
  const onRow = (row: string[]): null => {
    rows += 1;
    if (rows === 1) {
      if (row.join() !== header) throw new Error('the first line does not name the columns');
      return null;
    }
    const [conversation = '', message = '', content = ''] = [CONVERSATION, MESSAGE, CONTENT].map(
      (at) => row[at],
    );
    if (isEscaped && escapeFormula(unescapeFormula(content)) !== content) {
      throw new Error(`row ${rows} has an unescaped formula`);
    }
    if (conversation !== last) counts.conversations += 1;
    last = conversation;
    if (message !== '') addMessage(counts, message);
    return null;
  };
  const parser = parse({ record_delimiter: '\r\n', on_record: onRow });
  await pipeline(Readable.from(copies(endingWith(blocks, '\r\n')), { objectMode: false }), parser.resume());
  return counts;
}
