/** Export jobs, as callers of the API see them. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import type { z } from 'zod';
import { exportJob, exportManifest } from '../../src/http/schemas/export-jobs.ts';
import { until } from './chat-server.ts';
import { readStrictCsv } from './csv.ts';

export type Job = z.output<typeof exportJob>;
export type Manifest = z.output<typeof exportManifest>;

export interface Download {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly bytes: Buffer;
}

/** One request on its own connection; the body is not decoded. */
export async function download(
  url: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<Download> {
  const response = await open(url, headers, method);
  const bytes = Buffer.concat(await response.toArray());
  return { status: response.statusCode ?? 0, headers: response.headers, bytes };
}

/** Resolves with the head of a response. The test reads or cancels its body. */
export async function open(
  url: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<IncomingMessage> {
  const outgoing = request(url, { method, headers, agent: false });
  outgoing.end();
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  return response;
}

async function shaped<S extends z.ZodType>(schema: S, answer: Response, status = 200): Promise<z.output<S>> {
  const body: unknown = await answer.json();
  assert.equal(answer.status, status, JSON.stringify(body));
  assert.deepEqual(schema.parse(body), body, 'the answer has more than the schema');
  return schema.parse(body);
}

/** Starts a job at the server. */
export async function startJob(url: string, body: object = {}): Promise<Job> {
  const answer = await fetch(`${url}/api/exports`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const job = await shaped(exportJob, answer, 202);
  assert.equal(answer.headers.get('location'), `/api/exports/${job.id}`);
  return job;
}

export async function jobOf(url: string, id: string): Promise<Job> {
  return shaped(exportJob, await fetch(`${url}/api/exports/${id}`));
}

/** Waits until the job has this status; fails when it ends with another one. */
export function jobThatIs(url: string, id: string, status: Job['status'] = 'done'): Promise<Job> {
  return until(`the export ${id}`, async () => {
    const job = await jobOf(url, id);
    const ended = job.status !== 'queued' && job.status !== 'running';
    assert(job.status === status || !ended, `it is ${job.status}: ${job.error}`);
    return job.status === status ? job : undefined;
  });
}

export async function manifestOf(url: string, id: string): Promise<Manifest> {
  return shaped(exportManifest, await fetch(`${url}/api/exports/${id}/manifest`));
}

/** Runs an export job and downloads its file, checked against the job and the manifest. */
export async function made(url: string, body: object) {
  const { id } = await startJob(url, body);
  const job = await jobThatIs(url, id);
  return { job, ...(await taken(url, id)) };
}

/** The file of a job that is done, and its text. */
export async function taken(url: string, id: string) {
  const manifest = await manifestOf(url, id);
  const file = await download(`${url}/api/exports/${id}/file`);
  assert.equal(file.status, 200);
  const text = verified(manifest, file.bytes);
  const job = await jobOf(url, id);
  const { bytes, sha256 } = manifest;
  assert.deepEqual(job.file, { bytes, sha256, url: `/api/exports/${id}/file` });
  assert.equal(job.progress.percent, 100);
  return { manifest, file, text };
}

const UNPACK = { none: (bytes: Buffer) => bytes, gzip: gunzipSync, zstd: zstdDecompressSync };

/** Counts and hashes again. @returns the text that is in the file */
export function verified(manifest: Manifest, bytes: Buffer): string {
  assert.equal(bytes.length, manifest.bytes);
  assert.equal(createHash('sha256').update(bytes).digest('hex'), manifest.sha256);
  const text = UNPACK[manifest.compression](bytes).toString();
  const { conversations, messages, deleted, first_message_id: first, last_message_id: last } = manifest;
  const ids = messageIds(manifest, text);
  assert.deepEqual(
    { conversations, messages, deleted, first, last },
    { ...ids.counts, first: ids.all[0] ?? null, last: ids.all.at(-1) ?? null },
  );
  assert.equal(new Set(ids.all).size, ids.all.length, 'a message is in it twice');
  return text;
}

function messageIds({ format }: Manifest, text: string) {
  if (format === 'csv') {
    const rows = readStrictCsv(text.replace(/^\uFEFF/, '')).slice(1);
    const all = rows.map(([, , , id]) => String(id)).filter((id) => id !== '');
    const conversations = new Set(rows.map(([id]) => id)).size;
    return { all, counts: { conversations, messages: all.length, deleted: 0 } };
  }
  const lines: { deleted?: boolean; messages: { id: string }[] }[] =
    format === 'json' ? JSON.parse(text).conversations : ndjsonLines(text);
  const there = lines.filter(({ deleted }) => deleted !== true);
  const all = there.flatMap(({ messages }) => messages.map(({ id }) => id));
  const deleted = lines.length - there.length;
  return { all, counts: { conversations: there.length, messages: all.length, deleted } };
}

export function ndjsonLines(text: string) {
  assert(text === '' || text.endsWith('\n'), 'the last line is cut off');
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

export interface JobEvent {
  readonly event: string;
  readonly id: string | undefined;
  readonly data: Record<string, unknown>;
}

/** The events of a response in order, without pings. */
export async function* eventsOf(response: IncomingMessage): AsyncGenerator<JobEvent> {
  response.setEncoding('utf8');
  let text = '';
  for await (const piece of response) {
    text += piece;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const fields = new Map(
        text
          .slice(0, end)
          .split('\n')
          .map((line): [string, string] => [line.slice(0, line.indexOf(':')), line.replace(/^\w*: ?/, '')]),
      );
      text = text.slice(end + 2);
      const event = fields.get('event');
      if (event === undefined) continue;
      yield { event, id: fields.get('id'), data: JSON.parse(String(fields.get('data'))) };
    }
  }
  assert.equal(text, '', 'the stream ends in the middle of an event');
}

/** All events up to a clean end. */
export async function allEvents(response: IncomingMessage): Promise<JobEvent[]> {
  const events: JobEvent[] = [];
  for await (const event of eventsOf(response)) events.push(event);
  return events;
}
