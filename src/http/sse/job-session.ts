import { setTimeout as pause } from 'node:timers/promises';
import type { Request, Response } from 'express';
import type { ExportJobBody } from '../schemas/export-jobs.ts';
import { PING } from './encode.ts';

/** How often the job is looked at. */
const LOOK_MS = 500;

/**
 * Tells a job's progress until it has ended or the reader has gone. Every event is the whole job, so that a reader
 * that comes back has missed nothing.
 */
export async function followJob(
  request: Request,
  response: Response,
  first: ExportJobBody,
  look: () => Promise<ExportJobBody>,
  heartbeatMs: number,
): Promise<void> {
  response.writeHead(200, {
    'Content-Type': 'text/event-stream; charset=utf-8',
    'Cache-Control': 'no-cache, no-transform',
    'X-Accel-Buffering': 'no',
  });
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  const heartbeat = setInterval(() => response.write(PING), heartbeatMs);
  try {
    let told = '';
    for (let job = first; ; job = await look()) {
      const ended = job.status !== 'queued' && job.status !== 'running';
      const data = JSON.stringify(job);
      if (data !== told || ended) response.write(`event: ${ended ? 'done' : 'progress'}\ndata: ${data}\n\n`);
      told = data;
      if (ended) break;
      await pause(LOOK_MS, undefined, { signal: gone.signal });
    }
    response.end();
  } catch (error) {
    if (gone.signal.aborted) return;
    throw error;
  } finally {
    clearInterval(heartbeat);
  }
}
