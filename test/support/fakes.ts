import type { Log } from '../../src/domain/runtime.ts';

export const silentLog: Log = { info() {}, warn() {}, error() {} };
