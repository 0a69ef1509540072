import { SingleBar } from 'cli-progress';
import type { ExportCheckpoint, JobScope } from '../../src/domain/exports/jobs.ts';

type Counts = Pick<ExportCheckpoint, 'conversations' | 'messages' | 'bytes'>;

export interface Progress {
  begin(total: JobScope, done: Counts): void;
  update(counts: Counts): void;
  /** The export is complete. */
  finish(): void;
  /** Must also be called after an error. The last state stays on the screen. */
  end(): void;
}

/** Without a terminal: prints one line when the export is complete. */
function createCount(stream: NodeJS.WriteStream): Progress {
  let last: Counts = { conversations: 0, messages: 0, bytes: 0 };
  return {
    begin() {},
    update(counts) {
      last = counts;
    },
    finish() {
      const { conversations, messages, bytes } = last;
      stream.write(`exported ${conversations} conversations, ${messages} messages, ${bytes} bytes\n`);
    },
    end() {},
  };
}

const FORMAT = '{bar} {percentage}% | {rows} rows | {size} MB | {rate} rows/s | {left} left';

/** A progress bar on a terminal, the final counts elsewhere. */
export function createProgress(stream: NodeJS.WriteStream): Progress {
  if (!stream.isTTY) return createCount(stream);
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
      // Progress counts messages; without any, conversations.
      if (total.messages === 0) rows = (counts) => counts.conversations;
      began = performance.now();
      from = rows(done);
      begun = true;
      bar.start(rows(total), from, payload(done, rows(total)));
    },
    update(counts) {
      bar.update(Math.min(rows(counts), bar.getTotal()), payload(counts, bar.getTotal()));
    },
    finish() {},
    end() {
      if (begun) bar.stop();
    },
  };
}
