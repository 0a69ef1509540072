/** A caller of the API that records every response in a ledger, and can disconnect at any time. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { json } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import type { Entry } from './ledger.ts';
import { SseReader, type StreamEvent } from './sse-client.ts';

/**
 * `ended`: the stream's last event came. `cut`: the connection was lost, or the caller disconnected. `refused`: an
 * error response, which the entry records. `nothing`: 204, because the whole reply was received before.
 */
export type Outcome = 'ended' | 'cut' | 'refused' | 'nothing';

export interface Leave {
  /** Disconnects after this many content events. */
  readonly after?: number;
  readonly signal?: AbortSignal;
}

const startData = z.object({ conversation_id: z.uuid(), stream_id: z.uuid(), message_id: z.uuid() });
const doneData = z.looseObject({ finish_reason: z.string(), persisted: z.boolean(), length: z.number() });
const errorData = z.looseObject({ code: z.string(), length: z.number().optional() });
const wholeReply = z.looseObject({
  response: z.string(),
  conversation_id: z.uuid(),
  message_id: z.uuid(),
  finish_reason: z.string(),
  persisted: z.boolean(),
});

/** POST /api/chat-stream, read to its end or until the caller disconnects. */
export async function stream(url: string, entry: Entry, leave: Leave = {}): Promise<Outcome> {
  return read(url, 'POST', '/api/chat-stream', entry, leave);
}

/** GET of the same stream, after the last received event id; without one from the beginning. */
export async function resume(url: string, entry: Entry, leave: Leave = {}): Promise<Outcome> {
  assert(entry.streamId !== undefined, 'nothing to resume');
  return read(url, 'GET', `/api/chat-stream/${entry.streamId}`, entry, leave);
}

/** Resumes repeatedly, each time at the server that `pickUrl` returns, until the end is received. */
export async function readToTheEnd(pickUrl: () => string, entry: Entry, withinMs = 20_000): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!entry.end && entry.problems.length === 0) {
    if (performance.now() > deadline) {
      entry.problems.push(`did not come to an end by resuming (answers: ${entry.refusals.slice(-5)})`);
      return;
    }
    const outcome = await resume(pickUrl(), entry);
    if (entry.refusals.at(-1) === 404) entry.problems.push('404 for a stream that was begun');
    if (outcome === 'nothing') entry.problems.push('204, although its reader never saw the end');
    if (outcome !== 'ended') await pause(50);
  }
}

/** POST /api/chat. */
export async function ask(url: string, entry: Entry, leave: Leave = {}): Promise<Outcome> {
  const response = await send(url, 'POST', '/api/chat', entry, leave).catch(() => undefined);
  if (!response) return 'cut';
  const body: unknown = await json(response).catch(() => undefined);
  if (body === undefined) return 'cut';
  if (response.statusCode !== 200) return refused(entry, response.statusCode);
  const told = wholeReply.safeParse(body);
  if (!told.success) {
    entry.problems.push(`an answer out of shape: ${told.error.message}`);
    return 'refused';
  }
  const { data } = told;
  entry.acknowledge(data.conversation_id, data.message_id);
  entry.show(data.response);
  entry.reply.end = { kind: 'done', finishReason: data.finish_reason, persisted: data.persisted };
  return 'ended';
}

/** DELETE of the stream; resolves with the status, 0 without a response. */
export async function stop(url: string, entry: Entry): Promise<number> {
  entry.stopAsked = true;
  return remove(`${url}/api/chat-stream/${entry.streamId}`);
}

/**
 * DELETE of the conversation with all its entries; resolves with the status, 0 without a response. A question that was
 * not acknowledged before may be stored after the deletion, and then starts the conversation again.
 */
export async function deleteConversation(url: string, entries: readonly Entry[]): Promise<number> {
  const known = entries.filter(({ acknowledged }) => acknowledged);
  for (const entry of entries) if (entry.deletion === 'none') entry.deletion = 'asked';
  const status = await remove(`${url}/api/conversations/${entries[0]?.conversationId}`);
  for (const entry of known) {
    if (status === 200) entry.deletion = 'done';
    else if (status === 404) entry.deletion = 'not found';
  }
  return status;
}

async function remove(target: string): Promise<number> {
  try {
    const response = await fetch(target, { method: 'DELETE', signal: AbortSignal.timeout(30_000) });
    await response.arrayBuffer();
    return response.status;
  } catch {
    return 0;
  }
}

async function read(url: string, method: string, path: string, entry: Entry, leave: Leave): Promise<Outcome> {
  const response = await send(url, method, path, entry, leave).catch(() => undefined);
  if (!response) return 'cut';
  if (response.statusCode === 204) return 'nothing';
  if (response.statusCode !== 200) {
    response.resume();
    return refused(entry, response.statusCode);
  }
  return follow(entry, new SseReader(response), method === 'GET' ? entry.shown : '', leave.after);
}

/** Reads one connection. @param base the text received before, after which the stream must continue */
async function follow(entry: Entry, reader: SseReader, base: string, after?: number): Promise<Outcome> {
  const reading = new Reading(entry, base);
  for (let pieces = 0; ; ) {
    if (after !== undefined && pieces >= after && entry.acknowledged) {
      reader.leave();
      return 'cut';
    }
    const event = await nextOf(entry, reader);
    if (event === 'broken') return 'cut';
    if (!event) {
      if (!reading.ended) entry.problems.push('its stream ended cleanly without done or error');
      return 'ended';
    }
    if (event.type === 'content') pieces += 1;
    if (event.type !== 'ping') reading.note(event);
  }
}

async function nextOf(entry: Entry, reader: SseReader): Promise<StreamEvent | undefined | 'broken'> {
  try {
    return await reader.next();
  } catch (error) {
    const ours = error instanceof assert.AssertionError || error instanceof z.ZodError;
    if (ours) entry.problems.push(`a malformed event: ${error.message}`);
    return 'broken';
  }
}

class Reading {
  ended = false;
  readonly #entry: Entry;
  #text: string;

  constructor(entry: Entry, base: string) {
    this.#entry = entry;
    this.#text = base;
  }

  note(event: StreamEvent): void {
    const entry = this.#entry;
    const { type, data } = event;
    if (this.ended) entry.problems.push('something follows the end of its stream');
    if (type === 'start') this.#start(event);
    this.#text += event.content;
    if (!this.#text.isWellFormed()) entry.problems.push('a surrogate pair is torn apart');
    entry.show(this.#text);
    if (type === 'done') this.#done(event);
    if (type === 'error') this.#error(event);
    // After `reply_cut` more text was received than is stored. The id of this event has the stored length.
    if (type === 'error' && data.code === 'reply_cut') return;
    const place = `${entry.streamId}:${this.#text.length}${this.ended ? ':end' : ''}`;
    if (event.id !== place && type !== 'start')
      this.#problem(`an event ${type} has the id ${event.id}`, place);
    if (this.#text.length >= entry.shown.length) entry.reply.lastId = event.id;
  }

  #start({ data, id }: StreamEvent): void {
    const told = startData.safeParse(data);
    if (!told.success) {
      this.#problem('a start event is out of shape', told.error.message);
      return;
    }
    this.#entry.acknowledge(told.data.conversation_id, told.data.stream_id);
    const place = `${told.data.stream_id}:${this.#text.length}`;
    if (id !== place) this.#problem(`the start has the id ${id}`, place);
  }

  #done({ data }: StreamEvent): void {
    const told = doneData.safeParse(data);
    if (!told.success) {
      this.#problem('a done event is out of shape', told.error.message);
      return;
    }
    const { finish_reason: finishReason, persisted, length } = told.data;
    if (length !== this.#text.length) this.#problem(`done says ${length} units`, String(this.#text.length));
    this.#end({ kind: 'done', finishReason, persisted });
  }

  #error({ data, id }: StreamEvent): void {
    const told = errorData.safeParse(data);
    if (!told.success) {
      this.#problem('an error event is out of shape', told.error.message);
      return;
    }
    const { code, length } = told.data;
    if (code !== 'reply_cut') {
      this.#end({ kind: 'error', code });
      return;
    }
    const place = `${this.#entry.streamId}:${length}:end`;
    if (id !== place || length === undefined || length >= this.#text.length) {
      this.#problem(`reply_cut has the id ${id} with ${this.#text.length} units shown`, place);
    }
    this.#end({ kind: 'error', code, ...(length === undefined ? {} : { stored: length }) });
  }

  /** A stream that is read a second time must have the same end. */
  #end(end: NonNullable<Entry['end']>): void {
    this.ended = true;
    const before = this.#entry.end;
    const same =
      !before ||
      (before.kind === 'done'
        ? end.kind === 'done' && before.finishReason === end.finishReason
        : end.kind === 'error');
    if (!same) this.#problem(`ended as ${JSON.stringify(end)}`, JSON.stringify(before));
    this.#entry.reply.end = before ?? end;
  }

  #problem(what: string, wanted: string): void {
    this.#entry.problems.push(`${what}; wanted: ${wanted}`);
  }
}

function refused(entry: Entry, status: number | undefined): Outcome {
  entry.refusals.push(status ?? 0);
  return 'refused';
}

async function send(
  url: string,
  method: string,
  path: string,
  entry: Entry,
  { signal }: Leave,
): Promise<IncomingMessage> {
  const { key, body } = entry;
  const headers: Record<string, string> = {};
  if (method === 'POST') headers['content-type'] = 'application/json';
  if (method === 'POST' && key !== undefined) headers['idempotency-key'] = key;
  if (method === 'GET' && entry.reply.lastId !== undefined) headers['last-event-id'] = entry.reply.lastId;
  const outgoing = request(`${url}${path}`, { method, agent: false, headers, ...(signal ? { signal } : {}) });
  outgoing.end(method === 'POST' ? body : undefined);
  const [response] = await once(outgoing, 'response');
  // Handled, because the current read rejects with the same error.
  outgoing.on('error', () => {});
  assert(isResponse(response));
  response.on('error', () => {});
  return response;
}

function isResponse(value: unknown): value is IncomingMessage {
  return value instanceof Object && 'statusCode' in value;
}
