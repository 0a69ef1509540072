import { close, constants, fstatSync, openSync, write, writeSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { errorCode } from './domain/errors.ts';
import { makeFolder } from './util/folders.ts';

// Undefined on Windows.
const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK = 0 } = constants;

/** One write for each line took a tenth of the cost of a cached reply. */
const FLUSH_INTERVAL_MS = 100;
const FLUSH_CHARS = 8 * 1024;
/** What waits for a slow reader of a pipe. */
const MAX_WAITING_CHARS = 1024 * 1024;
/** Interval of attempts while the destination fails, and while a pipe is full. */
const RETRY_MS = 1000;
const FULL_PIPE_MS = 20;
/** At exit: the longest wait for a full pipe, and how long a write may have taken. */
const LAST_WAIT_MS = 200;
const STUCK_MS = 1000;

export interface LogDestinationOptions {
  /** Appended to, created with its folder if missing; undefined: standard output. */
  readonly file?: string | undefined;
  /** For a person at a terminal: changes each line, which is then written immediately. */
  readonly format?: ((line: string) => string) | undefined;
}

interface Batch {
  readonly fd: number;
  data: Buffer;
  readonly lines: number;
  /** How many dropped lines it reports. */
  readonly reported: number;
  /** Since when the system has it; undefined while it waits for a full pipe. */
  inFlightSince: number | undefined;
}

/**
 * Writes log lines without blocking or ending the process. While the destination fails (full, read-only, gone), lines
 * are dropped and counted, and the count is reported when lines can be written again. Pino's own destination ends the
 * process at such an error, or retries for ever in its exit hook.
 */
export class LogDestination {
  readonly #file: string | undefined;
  readonly #format: ((line: string) => string) | undefined;
  readonly #flushChars: number;
  #fd: number | undefined;
  #text = '';
  #lines = 0;
  #batch: Batch | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isFailing = false;
  /** Whether a failed write may have left part of a line behind. */
  #isTorn = false;
  #dropped = 0;
  #reported = 0;
  #isReporting = false;
  #hasWarned = false;
  #report: (count: number) => void = () => {};

  /** @throws the system's error when the file cannot be opened */
  constructor({ file, format }: LogDestinationOptions = {}) {
    this.#file = file;
    this.#format = format;
    this.#flushChars = format ? 0 : FLUSH_CHARS;
    this.#fd = file === undefined ? openStdout() : openFile(file);
  }

  /** @param report logs how many lines were dropped */
  onDropped(report: (count: number) => void): void {
    this.#report = report;
  }

  write(line: string): void {
    if (this.#isFailing || this.#text.length > MAX_WAITING_CHARS) {
      this.#dropped += 1;
      return;
    }
    this.#text += this.#format ? this.#format(line) : line;
    if (!this.#isReporting) this.#lines += 1;
    if (this.#text.length >= this.#flushChars) this.#next();
    else this.#schedule(FLUSH_INTERVAL_MS);
  }

  /** Starts to write what waits. */
  flush(): void {
    this.#next();
  }

  /** Writes what waits, unless that takes too long. Never throws. */
  flushSync(): void {
    const deadline = performance.now() + LAST_WAIT_MS;
    while (this.#batch?.inFlightSince === undefined) {
      this.#batch ??= this.#takeBatch();
      if (!this.#batch || !writeOut(this.#batch, deadline, (error) => this.#failed(error))) return;
      this.#written();
    }
  }

  /**
   * For the end of the process, which waits in Node's exit for a write that is in flight. On a pipe without a reader
   * that never ends.
   */
  exit(): void {
    this.flushSync();
    const since = this.#batch?.inFlightSince ?? Number.POSITIVE_INFINITY;
    if (performance.now() - since > STUCK_MS) process.kill(process.pid, 'SIGKILL');
  }

  /**
   * Opens the file again after it was renamed; standard output stays as it is.
   * @throws the system's error; the old file then stays open
   */
  reopen(): void {
    if (this.#file === undefined) return;
    const old = this.#fd;
    this.#fd = openFile(this.#file);
    if (old !== undefined && old !== this.#batch?.fd) close(old, () => {});
  }

  #schedule(ms: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (this.#isFailing) this.#retry();
      this.#next();
    }, ms).unref();
  }

  #next(): void {
    if (this.#batch) return;
    this.#batch = this.#takeBatch();
    if (this.#batch) this.#send(this.#batch);
  }

  #takeBatch(): Batch | undefined {
    if (this.#text === '') return undefined;
    if (this.#fd === undefined) {
      this.#failed(undefined);
      return undefined;
    }
    const batch = {
      fd: this.#fd,
      data: Buffer.from(this.#isTorn ? `\n${this.#text}` : this.#text),
      lines: this.#lines,
      reported: this.#reported,
      inFlightSince: undefined,
    };
    this.#text = '';
    this.#lines = 0;
    this.#reported = 0;
    return batch;
  }

  #send(batch: Batch): void {
    batch.inFlightSince = performance.now();
    write(batch.fd, batch.data, (error, bytes) => {
      batch.inFlightSince = undefined;
      if (error && error.code !== 'EAGAIN') return this.#failed(error);
      batch.data = batch.data.subarray(bytes);
      if (batch.data.length === 0) {
        this.#written();
        if (this.#text.length >= Math.max(1, this.#flushChars)) this.#next();
      } else if (bytes > 0) this.#send(batch);
      // Unless flushSync has written it meanwhile.
      else setTimeout(() => this.#batch === batch && this.#send(batch), FULL_PIPE_MS).unref();
    });
  }

  #written(): void {
    this.#isTorn = false;
    this.#hasWarned = false;
    this.#endBatch();
    this.#reportDropped();
    if (this.#text !== '') this.#schedule(FLUSH_INTERVAL_MS);
  }

  #failed(error: unknown): void {
    const { lines = 0, reported = 0 } = this.#batch ?? {};
    this.#dropped += lines + reported + this.#lines + this.#reported;
    this.#text = '';
    this.#lines = 0;
    this.#reported = 0;
    this.#isTorn ||= this.#batch !== undefined;
    this.#endBatch();
    this.#isFailing = true;
    this.#warn(error);
    this.#schedule(RETRY_MS);
  }

  #endBatch(): void {
    const fd = this.#batch?.fd;
    this.#batch = undefined;
    // Reopened meanwhile.
    if (fd !== undefined && fd !== this.#fd) close(fd, () => {});
  }

  /** The report is the line that shows whether the destination works again. */
  #retry(): void {
    this.#isFailing = false;
    try {
      this.reopen();
    } catch {
      // The file that is open may work again.
    }
    this.#reportDropped();
  }

  #reportDropped(): void {
    const count = this.#dropped;
    if (count === 0 || this.#text.length > MAX_WAITING_CHARS) return;
    this.#dropped = 0;
    this.#reported += count;
    this.#isReporting = true;
    this.#report(count);
    this.#isReporting = false;
  }

  /** Once for each failure. */
  #warn(error: unknown): void {
    if (this.#hasWarned) return;
    this.#hasWarned = true;
    const reason = errorCode(error) ?? 'no reader';
    process.stderr.write(
      `Log lines cannot be written to ${this.#file ?? 'standard output'} (${reason}) and are dropped.\n`,
    );
  }
}

/** @returns whether it is complete */
function writeOut(batch: Batch, deadline: number, onError: (error: unknown) => void): boolean {
  while (batch.data.length > 0) {
    try {
      batch.data = batch.data.subarray(writeSync(batch.fd, batch.data));
    } catch (error) {
      if (errorCode(error) !== 'EAGAIN') {
        onError(error);
        return false;
      }
      if (performance.now() > deadline) return false;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_PIPE_MS);
    }
  }
  return true;
}

/** Undefined for a pipe that has no reader yet. */
function openFile(file: string): number | undefined {
  makeFolder(dirname(resolve(file)));
  try {
    return openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK);
  } catch (error) {
    if (errorCode(error) === 'ENXIO') return undefined;
    throw error;
  }
}

const STDOUT = 1;

/** A write to a pipe whose reader has stopped would block a thread, which the exit of the process waits for. */
function openStdout(): number {
  try {
    if (fstatSync(STDOUT).isFIFO()) return openSync(`/proc/self/fd/${STDOUT}`, O_WRONLY | O_NONBLOCK);
  } catch {
    // Not Linux, or the pipe belongs to another user.
  }
  return STDOUT;
}
