import type { Request, Response } from 'express';
import { AppError, isDatabaseError } from '../../domain/errors.ts';
import { lineJson } from '../../util/line-json.ts';
import { unlessAborted } from '../../util/timers.ts';
import { closeSignal } from '../response/close-signal.ts';
import { requestProblem } from '../response/problem.ts';
import { noteError } from '../response/request-details.ts';
import type { ExportJobBody } from '../schemas/export-jobs.ts';
import { EVENT_STREAM_HEADERS, PING } from './encode.ts';

export interface JobEventsOptions {
  readonly first: ExportJobBody;
  /** The job a moment later. */
  load(): Promise<ExportJobBody>;
  readonly heartbeatMs: number;
  /** Aborted when the server shuts down. Readers reconnect elsewhere. */
  readonly stopping: AbortSignal;
}

/**
 * Streams a job's progress until the job has ended or the reader has left. Every event holds the whole job, so a
 * reader that reconnects misses nothing. After the last event it gets 204, on which an EventSource stops.
 */
export async function sendJobEvents(
  request: Request,
  response: Response,
  options: JobEventsOptions,
): Promise<void> {
  const { first, heartbeatMs, stopping } = options;
  if (request.headers['last-event-id'] === endId(first) && hasEnded(first)) {
    response.status(204).end();
    return;
  }
  response.writeHead(200, EVENT_STREAM_HEADERS);
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  response.write('retry: 3000\n\n');
  const heartbeat = setInterval(() => {
    if (!response.writableNeedDrain) response.write(PING);
  }, heartbeatMs);
  try {
    await writeProgress(response, options, AbortSignal.any([closeSignal(response), stopping]));
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    noteError(response, error);
    response.write(`event: error\ndata: ${lineJson(requestProblem(response, error))}\n\n`);
  } finally {
    clearInterval(heartbeat);
  }
  response.end();
}

/** Resolves after the last event, or when `signal` aborts. @throws AppError when the job was removed */
async function writeProgress(
  response: Response,
  { first, load }: JobEventsOptions,
  signal: AbortSignal,
): Promise<void> {
  let written = '';
  for (let job = first; !signal.aborted; job = await reload(load, job, signal)) {
    const data = lineJson(job);
    if (hasEnded(job)) {
      response.write(`event: done\nid: ${endId(job)}\ndata: ${data}\n\n`);
      return;
    }
    // A slow reader misses states, not the last one.
    if (data === written || response.writableNeedDrain) continue;
    response.write(`event: progress\ndata: ${data}\n\n`);
    written = data;
  }
}

/** Keeps the last state while the database is unavailable. */
async function reload(
  load: () => Promise<ExportJobBody>,
  last: ExportJobBody,
  signal: AbortSignal,
): Promise<ExportJobBody> {
  try {
    return await unlessAborted(signal, load());
  } catch (error) {
    if (signal.aborted || isDatabaseError(error)) return last;
    throw error;
  }
}

function hasEnded({ status }: ExportJobBody): boolean {
  return status !== 'queued' && status !== 'running';
}

function endId({ id }: ExportJobBody): string {
  return `${id}:end`;
}
