/** Measures how long it takes to resume a long reply and to replay the journal. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { loadConfig } from '../src/config/config.ts';
import { type Database, openDatabase } from '../src/db/database.ts';
import { Journal } from '../src/db/journal/journal.ts';
import { DurableWriter } from '../src/db/turns/durable-writer.ts';
import type { TurnWrite } from '../src/domain/chat/turns.ts';
import type { Message } from '../src/domain/conversations/conversation.ts';
import { AppError } from '../src/domain/errors.ts';
import { newId, replyTo, startOf, userMessage } from '../test/db/fixtures.ts';
import { percentile } from './load.ts';

const silent = pino({ level: 'silent' });
const RESUMES = 40;

/** A question and its complete reply in a new conversation. */
function turn(content: string): TurnWrite & { readonly reply: Message } {
  const message = userMessage(newId(), { timestamp: Date.now() });
  const reply = replyTo(message, { content, usage: null, format: 'text' });
  return { start: startOf(message, { named: false, expiredBefore: 0 }), reply };
}

async function withDatabase<T>(url: string, work: (database: Database) => Promise<T>): Promise<T> {
  const database = openDatabase(loadConfig({ DATABASE_URL: url }).database, silent);
  try {
    return await work(database);
  } finally {
    await database.close();
  }
}

/** Median time to resume a stored reply of 100 KB in its middle, as text. */
export function resumeMs(port: number, databaseUrl: string): Promise<number> {
  return withDatabase(databaseUrl, async ({ writer }) => {
    const paragraph =
      '**Resume** a [reply](https://example.com/a) at the offset where its stream broke. 断点续传。\n\n';
    const unit = turn(paragraph.repeat(Math.ceil(100_000 / Buffer.byteLength(paragraph))));
    await writer.write(unit);
    const { uid } = unit.reply;
    const times: number[] = [];
    for (let n = 0; n < RESUMES; n += 1) {
      const began = performance.now();
      const response = await fetch(
        `http://127.0.0.1:${port}/api/chat-stream/${uid}?last_event_id=${uid}:30000`,
      );
      const events = await response.text();
      times.push(performance.now() - began);
      if (!events.includes('event: done')) throw new Error('the resumed stream did not end');
    }
    return percentile(times, 50);
  });
}

/** Time to replay 10,000 turns from the journal into the database. */
export async function replayMs(databaseUrl: string): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-api-bench-'));
  const journal = new Journal(join(folder, 'journal.sqlite'), 1 << 30);
  const units = Array.from({ length: 10_000 }, (_, n) =>
    turn(`${n} ${'a reply of some length, 一些文字。'.repeat(10)}`),
  );
  try {
    await Promise.all(units.map((unit) => journal.append(unit)));
    return await withDatabase(databaseUrl, async (database) => {
      const began = performance.now();
      const writer = new DurableWriter(database.writer, journal, silent);
      await writer.flush(60_000);
      const ms = performance.now() - began;
      const stored = await database.replies.find(units.at(-1)?.reply.uid ?? '');
      if (!stored) throw new AppError('internal', 'the last turn was not replayed');
      await writer.close();
      return ms;
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
