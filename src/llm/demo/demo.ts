/** A model server with canned replies, so that a first run needs no key. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { isObject } from '../../util/json.ts';
import { type Json, parseObject } from '../reply/shapes.ts';
import { contentOf, type DemoAnswer, demoAnswer } from './answer.ts';

export interface DemoModel {
  /** With `/v1`, as OPENAI_BASE_URL would have it. */
  readonly baseUrl: string;
  close(): Promise<void>;
}

const MODEL = 'demo';
const FIRST_PIECE_MS = 150;
const PIECE_MS = 25;
/** Keeps the longest reply under four seconds. */
const MAX_PIECES = 90;
const MAX_REASONING_PIECES = 30;
const WHOLE_REPLY_MS = 200;
const BODY_LIMIT = 64 * 1024 * 1024;

/** Listens on a free loopback port: `POST /v1/chat/completions`, streamed or not, and `GET /v1/models`. */
export async function startDemoModel(): Promise<DemoModel> {
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { baseUrl: `http://127.0.0.1:${portOf(server)}/v1`, close: () => close(server) };
}

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = request.url?.split('?')[0];
  if (request.method === 'GET' && path === '/v1/models') {
    sendJson(response, 200, { object: 'list', data: [{ id: MODEL, object: 'model', owned_by: 'demo' }] });
  } else if (request.method === 'POST' && path === '/v1/chat/completions') {
    const body = parseObject(await read(request));
    const messages: unknown[] = Array.isArray(body?.messages) ? body.messages : [];
    if (!body || messages.length === 0) sendError(response, 400, 'the body needs messages');
    else if (body.stream === true) await streamReply(response, messages, body);
    else await sendReply(response, messages, body);
  } else {
    request.resume();
    sendError(response, 404, 'no such path');
  }
}

async function sendReply(response: ServerResponse, messages: unknown[], body: Json): Promise<void> {
  const answer = demoAnswer(body, messages);
  const { content, reasoning, calls } = answer;
  await pause(WHOLE_REPLY_MS);
  const message = {
    role: 'assistant',
    content: calls.length > 0 ? null : content,
    ...(reasoning !== '' && { reasoning_content: reasoning }),
    ...(calls.length > 0 && { tool_calls: calls }),
  };
  const choice = { index: 0, message, finish_reason: reasonOf(answer) };
  sendJson(response, 200, { ...head('chat.completion'), choices: [choice], usage: usage(messages, answer) });
}

async function streamReply(response: ServerResponse, messages: unknown[], body: Json): Promise<void> {
  const answer = demoAnswer(body, messages);
  const base = head('chat.completion.chunk');
  const disconnected = new AbortController();
  response.once('close', () => disconnected.abort());
  const send = (delta: object, reason: string | null = null) => {
    const choices = [{ index: 0, delta, finish_reason: reason }];
    response.write(`data: ${JSON.stringify({ ...base, choices })}\n\n`);
  };
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  send({ role: 'assistant', content: '' });
  let wait = FIRST_PIECE_MS;
  for (const delta of deltasOf(answer)) {
    await pause(wait, undefined, { signal: disconnected.signal });
    send(delta);
    wait = PIECE_MS;
  }
  send({}, reasonOf(answer));
  const { stream_options: options } = body;
  if (isObject(options) && options.include_usage === true) {
    const last = { ...base, choices: [], usage: usage(messages, answer) };
    response.write(`data: ${JSON.stringify(last)}\n\n`);
  }
  response.end('data: [DONE]\n\n');
}

function* deltasOf({ reasoning, content, calls }: DemoAnswer): Generator<object> {
  for (const piece of cut(reasoning, MAX_REASONING_PIECES)) yield { reasoning_content: piece };
  for (const piece of cut(content)) yield { content: piece };
  for (const [index, { id, type, function: call }] of calls.entries()) {
    yield { tool_calls: [{ index, id, type, function: { name: call.name, arguments: '' } }] };
    for (const piece of cut(call.arguments))
      yield { tool_calls: [{ index, function: { arguments: piece } }] };
  }
}

function reasonOf({ calls }: DemoAnswer): string {
  return calls.length > 0 ? 'tool_calls' : 'stop';
}

/** Pieces of about a word, cut between code points. */
function cut(text: string, max = MAX_PIECES): string[] {
  const characters = [...text];
  const size = Math.max(2, Math.ceil(characters.length / max));
  const count = Math.ceil(characters.length / size);
  return Array.from({ length: count }, (_, i) => characters.slice(i * size, (i + 1) * size).join(''));
}

function head(object: string): object {
  return { id: 'chatcmpl-demo', object, created: Math.floor(Date.now() / 1000), model: MODEL };
}

/** An estimate: one token for each Chinese character, and for each four other characters. */
function usage(messages: unknown[], { reasoning, content, calls }: DemoAnswer): object {
  const prompt = messages.reduce<number>((sum, message) => sum + tokens(contentOf(message)), 0);
  const called = calls.map(({ function: call }) => `${call.name}${call.arguments}`).join('');
  const thought = tokens(reasoning);
  const completion = tokens(content) + tokens(called) + thought;
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    ...(thought > 0 && { completion_tokens_details: { reasoning_tokens: thought } }),
  };
}

function tokens(text: string): number {
  const han = text.match(/\p{Script=Han}/gu)?.length ?? 0;
  return han + Math.ceil((text.length - han) / 4);
}

async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) continue;
    size += chunk.length;
    if (size > BODY_LIMIT) throw new Error('the body is too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function sendError(response: ServerResponse, status: number, message: string): void {
  sendJson(response, status, { error: { message, type: 'invalid_request_error', code: null, param: null } });
}

function sendJson(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8' });
  response.end(JSON.stringify(body));
}

function portOf(server: Server): number {
  const address: AddressInfo | string | null = server.address();
  if (address === null || typeof address === 'string') throw new Error('the demo model listens on no port');
  return address.port;
}

async function close(server: Server): Promise<void> {
  if (!server.listening) return;
  const closed = once(server, 'close');
  server.close();
  server.closeAllConnections();
  await closed;
}
