/** A model server with canned replies, so that a first run needs no key. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { isObject, parseObject, textOf } from '../reply/shapes.ts';
import { demoReply } from './text.ts';

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
    else if (body.stream === true) await streamReply(response, messages, body.stream_options);
    else await sendReply(response, messages);
  } else {
    request.resume();
    sendError(response, 404, 'no such path');
  }
}

async function sendReply(response: ServerResponse, messages: unknown[]): Promise<void> {
  const content = replyTo(messages);
  await pause(WHOLE_REPLY_MS);
  const choice = { index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' };
  sendJson(response, 200, { ...head('chat.completion'), choices: [choice], usage: usage(messages, content) });
}

async function streamReply(response: ServerResponse, messages: unknown[], options: unknown): Promise<void> {
  const content = replyTo(messages);
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
  for (const piece of cut(content)) {
    await pause(wait, undefined, { signal: disconnected.signal });
    send({ content: piece });
    wait = PIECE_MS;
  }
  send({}, 'stop');
  if (isObject(options) && options.include_usage === true) {
    const last = { ...base, choices: [], usage: usage(messages, content) };
    response.write(`data: ${JSON.stringify(last)}\n\n`);
  }
  response.end('data: [DONE]\n\n');
}

function replyTo(messages: unknown[]): string {
  const conversation = messages.filter((message) => textOf(message, 'role') !== 'system');
  return demoReply(textOf(conversation.at(-1), 'content'), Math.max(0, conversation.length - 1));
}

/** Pieces of about a word, cut between code points. */
function cut(text: string): string[] {
  const characters = [...text];
  const size = Math.max(2, Math.ceil(characters.length / MAX_PIECES));
  const count = Math.ceil(characters.length / size);
  return Array.from({ length: count }, (_, i) => characters.slice(i * size, (i + 1) * size).join(''));
}

function head(object: string): object {
  return { id: 'chatcmpl-demo', object, created: Math.floor(Date.now() / 1000), model: MODEL };
}

/** A rough count: a token for a Chinese character, or for four others. */
function usage(messages: unknown[], content: string): object {
  const prompt = messages.reduce<number>((sum, message) => sum + tokens(textOf(message, 'content')), 0);
  const completion = tokens(content);
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
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
