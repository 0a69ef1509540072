import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TurnWrite, WriteOutcome } from '../../../../src/domain/chat/turns.ts';
import { AppError } from '../../../../src/domain/errors.ts';
import { FailedWriteQueue } from '../../../../src/services/chat/failed-write-queue.ts';

const unit = (worker: string): TurnWrite => ({ worker });

test('a unit that keeps failing delays no other, and is given up with a log line', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const written: unknown[] = [];
  const lines: unknown[] = [];
  const note = (fields: object, text: string) =>
    void lines.push([text, 'message_id' in fields && fields.message_id]);
  const log = { info: note, warn: note, error: note };
  const outcomes: Record<string, WriteOutcome | Error> = {
    bad: new Error('a bad row'),
    busy: new AppError('database_busy'),
    good: 'saved',
    deleted: 'gone',
  };
  const write = async ({ worker = '' }: TurnWrite): Promise<WriteOutcome> => {
    written.push(worker);
    const outcome = outcomes[worker] ?? 'saved';
    if (outcome instanceof Error) throw outcome;
    return outcome;
  };
  const queue = new FailedWriteQueue({ write }, log);
  for (const name of Object.keys(outcomes)) queue.add(name, unit(name));
  const round = async () => {
    t.mock.timers.tick(1000);
    await new Promise(setImmediate);
  };
  await round();
  assert.deepEqual(lines, [
    ['reply saved by a retry', 'good'],
    ['failed write dropped, conversation deleted', 'deleted'],
  ]);
  for (let i = 0; i < 20; i++) await round();
  assert.deepEqual(lines.slice(2), [['end of reply lost', 'bad']]);
  assert.equal(written.filter((name) => name === 'bad').length, 10);
  assert.equal(written.filter((name) => name === 'busy').length, 21);
});
