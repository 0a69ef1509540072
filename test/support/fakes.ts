import type { PieceReader } from '../../src/domain/chat/model.ts';
import type { Metrics } from '../../src/domain/metrics.ts';
import type { Log } from '../../src/domain/runtime.ts';

export const silentLog: Log = { info() {}, warn() {}, error() {} };

/** A reader that ignores the reasoning of a reply. */
export function textReader(content: (text: string) => void = () => {}): PieceReader {
  return { content, reasoning() {} };
}

/** Metrics that ignore all reports. */
export const silentMetrics: Metrics = {
  requestEnded() {},
  rateLimited() {},
  streamOpened() {},
  streamClosed() {},
  streamResumed() {},
  streamStopped() {},
  cacheUsed() {},
  idempotentReplay() {},
  turnEnded() {},
  slowCall() {},
  callEnded() {},
  attemptFailed() {},
  checkpointSaved() {},
  batchWritten() {},
  writeWaited() {},
  purged() {},
  fallbackCalled() {},
  rowsExported() {},
};
