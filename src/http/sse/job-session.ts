import { setTimeout as pause } from 'node:timers/promises';
import type { Request, Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import { pathOf, problemOf } from '../response/problem.ts';
import type { ExportJobBody } from '../schemas/export-jobs.ts';
import { PING } from './encode.ts';

/** How often the job is looked at. */
const LOOK_MS = 500;

export interface FollowedJob {
  readonly first: ExportJobBody;
  look(): Promise<ExportJobBody>;
  readonly heartbeatMs: number;
  /** The server shuts down: readers go on at another one. */
  readonly stopping: AbortSignal;
}

function hasEnded({ status }: ExportJobBody): boolean {
  return status !== 'queued' && status !== 'running';
}

/**
 * Tells a job's progress until it has ended or the reader has gone. Every event is the whole job, so that a reader
 * that comes back has missed nothing; one that comes back after the end gets 204, with which an EventSource stops.
 */
export async function followJob(request: Request, response: Response, job: FollowedJob): Promise<void> {
  const { first, heartbeatMs, stopping } = job;
  const end = `${first.id}:end`;
  if (request.headers['last-event-id'] === end && hasEnded(first)) {
    response.status(204).end();
    return;
  }
  response.writeHead(200, {
    'Content-Type': 'text/event-stream; charset=utf-8',
    'Cache-Control': 'no-cache, no-transform',
    'X-Accel-Buffering': 'no',
  });
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  response.write('retry: 3000\n\n');
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  const heartbeat = setInterval(() => response.write(PING), heartbeatMs);
  try {
    await tell(response, job, end, AbortSignal.any([gone.signal, stopping]));
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    const problem = problemOf(error, pathOf(request), response.locals.requestId);
    response.write(`event: error\ndata: ${JSON.stringify(problem)}\n\n`);
  } finally {
    clearInterval(heartbeat);
  }
  response.end();
}

/** Resolves when the end was told, or `signal` says so. @throws AppError when the job was removed */
async function tell(
  response: Response,
  { first, look }: FollowedJob,
  end: string,
  signal: AbortSignal,
): Promise<void> {
  let told = '';
  for (let job = first; !signal.aborted; job = await sure(look, job)) {
    const data = JSON.stringify(job);
    if (hasEnded(job)) {
      response.write(`event: done\nid: ${end}\ndata: ${data}\n\n`);
      return;
    }
    if (data !== told) response.write(`event: progress\ndata: ${data}\n\n`);
    told = data;
    await pause(LOOK_MS, undefined, { signal }).catch(() => {});
  }
}

/** While the database is away, nothing new is known. */
async function sure(look: () => Promise<ExportJobBody>, known: ExportJobBody): Promise<ExportJobBody> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof AppError && error.code === 'database_unavailable') return known;
    throw error;
  }
}
