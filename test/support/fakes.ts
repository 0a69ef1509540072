import type { Metrics } from '../../src/domain/metrics.ts';
import type { Log } from '../../src/domain/runtime.ts';

export const silentLog: Log = { info() {}, warn() {}, error() {} };

/** Counts nothing. */
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
  rowsExported() {},
};
