import { SingleBar } from 'cli-progress';
import type { ExportCheckpoint, JobScope } from '../../src/domain/exports/jobs.ts';

type Counts = Pick<ExportCheckpoint, 'conversations' | 'messages' | 'bytes'>;

export interface Progress {
  begin(total: JobScope, behind: Counts): void;
  update(counts: Counts): void;
  /** Leaves the last state where it is. */
  end(): void;
}

const SILENT: Progress = { begin() {}, update() {}, end() {} };
const FORMAT = '{bar} {percentage}% | {rows} rows | {size} MB | {rate} rows/s | {left} left';

/** A bar where somebody looks; nothing at all elsewhere. */
export function createProgress(stream: NodeJS.WriteStream): Progress {
  if (!stream.isTTY) return SILENT;
  const bar = new SingleBar({ stream, format: FORMAT, hideCursor: true, gracefulExit: false, fps: 5 });
  const number = new Intl.NumberFormat('en-US');
  let began = performance.now();
  let from = 0;
  let begun = false;
  let rows = (counts: { conversations: number; messages: number }) => counts.messages;
  const shown = (counts: Counts, total: number) => {
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
    begin(total, behind) {
      // Conversations without a message are counted where there is nothing else to count.
      if (total.messages === 0) rows = (counts) => counts.conversations;
      began = performance.now();
      from = rows(behind);
      begun = true;
      bar.start(rows(total), from, shown(behind, rows(total)));
    },
    update(counts) {
      bar.update(Math.min(rows(counts), bar.getTotal()), shown(counts, bar.getTotal()));
    },
    end() {
      if (begun) bar.stop();
    },
  };
}
