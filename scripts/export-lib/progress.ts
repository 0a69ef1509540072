import { SingleBar } from 'cli-progress';
import type { ExportCheckpoint, JobScope } from '../../src/domain/exports/jobs.ts';

type Counts = Pick<ExportCheckpoint, 'conversations' | 'messages' | 'bytes'>;

export interface Progress {
  begin(total: JobScope, done: Counts): void;
  update(counts: Counts): void;
  /** The last state stays on the screen. */
  end(): void;
}

const SILENT: Progress = { begin() {}, update() {}, end() {} };
const FORMAT = '{bar} {percentage}% | {rows} rows | {size} MB | {rate} rows/s | {left} left';

/** A progress bar on a terminal, nothing elsewhere. */
export function createProgress(stream: NodeJS.WriteStream): Progress {
  if (!stream.isTTY) return SILENT;
  const bar = new SingleBar({ stream, format: FORMAT, hideCursor: true, gracefulExit: false, fps: 5 });
  const number = new Intl.NumberFormat('en-US');
  let began = performance.now();
  let from = 0;
  let begun = false;
  let rows = (counts: { conversations: number; messages: number }) => counts.messages;
  const payload = (counts: Counts, total: number) => {
    const seconds = (performance.now() - began) / 1000;
    const rate = seconds > 0 ? (rows(counts) - from) / seconds : 0;
    const left = rate > 0 ? Math.max(0, total - rows(counts)) / rate : undefined;
    return {
      rows: number.format(rows(counts)),
      size: (counts.bytes / 1e6).toFixed(1),
      rate: number.format(Math.round(rate)),
      left: left === undefined ? '–' : `${Math.ceil(left)} s`,
    };
  };
  return {
    begin(total, done) {
      // Without messages, conversations are counted.
      if (total.messages === 0) rows = (counts) => counts.conversations;
      began = performance.now();
      from = rows(done);
      begun = true;
      bar.start(rows(total), from, payload(done, rows(total)));
    },
    update(counts) {
      bar.update(Math.min(rows(counts), bar.getTotal()), payload(counts, bar.getTotal()));
    },
    end() {
      if (begun) bar.stop();
    },
  };
}
