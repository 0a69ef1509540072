import { SingleBar } from 'cli-progress';
import type { ImportCounts } from '../../src/services/imports/imports.ts';

export interface ImportProgress {
  /** @param total bytes of the file; undefined when it is not known */
  begin(total: number | undefined): void;
  read(bytes: number): void;
  update(counts: ImportCounts): void;
  /** Must also be called after an error. The last state stays on the screen. */
  end(): void;
}

const FORMAT = '{bar} {percentage}% | {conversations} conversations | {messages} messages | {failed} failed';

/** A progress bar on a terminal; without one nothing, because the counts are printed at the end. */
export function createImportProgress(stream: NodeJS.WriteStream): ImportProgress {
  let bar: SingleBar | undefined;
  let done = 0;
  const number = new Intl.NumberFormat('en-US');
  const payload = ({ imported, replaced, messages, failed }: ImportCounts) => ({
    conversations: number.format(imported + replaced),
    messages: number.format(messages),
    failed: number.format(failed),
  });
  return {
    begin(total) {
      if (!stream.isTTY || !total) return;
      bar = new SingleBar({ stream, format: FORMAT, hideCursor: true, gracefulExit: false, fps: 5 });
      bar.start(total, 0, { conversations: '0', messages: '0', failed: '0' });
    },
    read(bytes) {
      done += bytes;
    },
    update(counts) {
      bar?.update(done, payload(counts));
    },
    end() {
      bar?.stop();
    },
  };
}
