/**
 * A scriptable model server over real HTTP. It records requests, and responds or fails as scripted. A handler responds
 * to one request. `script` makes a handler of steps; common handlers are at the end of this file.
 */
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { text as readText } from 'node:stream/consumers';
import { setImmediate as immediate, setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { plantText } from './planted.ts';

/** Text, or the text of parts; empty without any. */
const content = z.union([
  z.string(),
  z
    .array(z.looseObject({ text: z.string().default('') }))
    .transform((parts) => parts.map(({ text }) => text).join('')),
  z.null().transform(() => ''),
]);
const chatBody = z.looseObject({
  model: z.string(),
  stream: z.boolean().default(false),
  messages: z.array(z.looseObject({ role: z.string(), content })),
});

export interface RecordedRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: z.output<typeof chatBody>;
  /** The messages of the body, unchanged. */
  readonly sentMessages: unknown;
  /** The number of the connection: requests with the same number used the same connection. */
  readonly connection: number;
  /** When it was complete, on the monotonic clock. */
  readonly at: number;
  /** Whether the connection was closed, by either side, before the response was complete. */
  closed: boolean;
}

export interface Exchange {
  readonly request: RecordedRequest;
  readonly response: ServerResponse;
}

export type Handler = (exchange: Exchange) => void | Promise<void>;
export type Step = Handler;

export interface FakeUpstream {
  /** With `/v1`. */
  readonly baseUrl: string;
  /** The chat requests, in the order in which they were complete. */
  readonly requests: readonly RecordedRequest[];
  /** How often `GET /models` was called. */
  readonly modelRequests: number;
  /** Sets the handler of all further requests. A list sets the handlers of the next requests, one each. */
  respond(handler: Handler | readonly Handler[]): void;
  /** Sets the handler of `GET /models`. */
  respondModels(handler: (response: ServerResponse) => void): void;
  /** Resolves with the nth chat request (from 1) when it has arrived. */
  waitForRequest(n: number): Promise<RecordedRequest>;
  /** Resolves when the nth chat request (from 1) is `closed`. */
  waitForClosed(n: number): Promise<RecordedRequest>;
  /** Open connections. */
  readonly connections: number;
  /** Cuts every connection and stops listening. */
  close(): Promise<void>;
}

/** How long a `waitFor…` waits before it fails. */
const WAIT_MS = 30_000;

export async function startFakeUpstream(): Promise<FakeUpstream> {
  const requests: RecordedRequest[] = [];
  const queue: Handler[] = [];
  const changes = new EventEmitter().setMaxListeners(0);
  const sockets = new Map<Socket, number>();
  let opened = 0;
  let modelRequests = 0;
  let usual: Handler = (exchange) => reply(`echo: ${lastUserMessage(exchange.request)}`)(exchange);
  let models = (response: ServerResponse) => {
    response.writeHead(200, { 'content-type': 'application/json' }).end('{"object":"list","data":[]}');
  };

  const serve = async (incoming: IncomingMessage, response: ServerResponse) => {
    const path = incoming.url ?? '';
    if (path.endsWith('/models')) {
      modelRequests += 1;
      models(response);
      return;
    }
    const sent = JSON.parse(await readText(incoming));
    const body = chatBody.parse(sent);
    for (const { content } of body.messages) plantText(content);
    const { method = '', headers } = incoming;
    const connection = sockets.get(incoming.socket) ?? 0;
    const at = performance.now();
    const sentMessages: unknown = sent.messages;
    const request = { method, path, headers, body, sentMessages, connection, at, closed: false };
    response.once('close', () => {
      request.closed = !response.writableFinished;
      changes.emit('change');
    });
    requests.push(request);
    changes.emit('change');
    await (queue.shift() ?? usual)({ request, response });
  };
  const server = createServer((incoming, response) => {
    serve(incoming, response).catch(() => response.destroy());
  });
  server.on('connection', (socket: Socket) => {
    opened += 1;
    sockets.set(socket, opened);
    socket.once('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert(address !== null && typeof address === 'object');

  const waitFor = async (what: string, find: () => RecordedRequest | undefined) => {
    const signal = AbortSignal.timeout(WAIT_MS);
    for (;;) {
      const found = find();
      if (found) return found;
      await once(changes, 'change', { signal }).catch(() => assert.fail(`${what} did not come`));
    }
  };
  return {
    baseUrl: `http://127.0.0.1:${address.port}/v1`,
    requests,
    get modelRequests() {
      return modelRequests;
    },
    get connections() {
      return sockets.size;
    },
    respond(handler) {
      if (typeof handler === 'function') usual = handler;
      else queue.push(...handler);
    },
    respondModels(handler) {
      models = handler;
    },
    waitForRequest: (n) => waitFor(`request ${n}`, () => requests[n - 1]),
    waitForClosed: (n) =>
      waitFor(`the end of request ${n}`, () => (requests[n - 1]?.closed ? requests[n - 1] : undefined)),
    async close() {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

function lastUserMessage(request: RecordedRequest): string {
  return request.body.messages.findLast(({ role }) => role === 'user')?.content ?? '';
}

/** A promise that the test resolves to continue the script. */
export interface Gate {
  readonly opened: Promise<void>;
  open(): void;
}

export function createGate(): Gate {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { opened: promise, open: () => resolve() };
}

// Steps: each sends or does one part of a response that `script` has begun.

/** One chunk of the stream as text, for `raw` and `burst`. */
export function chunk(delta: object, finishReason: string | null = null, more: object = {}): string {
  const choices = [{ index: 0, delta, finish_reason: finishReason }];
  return `data: ${JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion.chunk', model: 'fake-model', choices, ...more })}\n\n`;
}

export const raw =
  (data: string | Uint8Array): Step =>
  ({ response }) =>
    void response.write(data);
export const role = (): Step => raw(chunk({ role: 'assistant', content: '' }));
export const delta = (content: string): Step => {
  plantText(content);
  return raw(chunk({ content }));
};
export const reasoning = (text: string): Step => raw(chunk({ reasoning_content: text }));
export const finish = (reason = 'stop'): Step => raw(chunk({}, reason));
export const usage = (prompt = 3, completion = 5): Step => {
  const tokens = { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
  return raw(
    `data: ${JSON.stringify({ id: 'chatcmpl-1', model: 'fake-model', choices: [], usage: tokens })}\n\n`,
  );
};
export const done = (): Step => raw('data: [DONE]\n\n');
/** Several HTTP chunks in one network write. */
export const burst =
  (...parts: string[]): Step =>
  ({ response }) => {
    // Not the response's own cork: that would make them one HTTP chunk.
    response.socket?.cork();
    for (const part of parts) response.write(part);
    response.socket?.uncork();
  };
/** Milliseconds, a gate, or any promise. */
export const wait =
  (until: number | Gate | Promise<unknown>): Step =>
  async () => {
    if (typeof until === 'number') await pause(until);
    else await ('opened' in until ? until.opened : until);
  };
/** Waits some turns of the event loop, in which a client in this process receives what was written. */
export const arrive = (): Step => async () => {
  for (let turn = 0; turn < 5; turn++) await immediate();
};
/** Sends nothing more until the client disconnects. */
export const silence =
  (): Step =>
  async ({ response }) => {
    response.flushHeaders();
    if (!response.destroyed) await once(response, 'close');
  };
/** Cuts the connection with a TCP reset. */
export const reset =
  (): Step =>
  ({ request, response }) => {
    request.closed = true;
    response.socket?.resetAndDestroy();
  };

/** An event stream of these steps. It is ended after the last one, if the connection is still open. */
export const script =
  (...steps: readonly Step[]): Handler =>
  async (exchange) => {
    const { response } = exchange;
    response.writeHead(200, { 'content-type': 'text/event-stream', 'x-request-id': 'req-fake-1' });
    for (const step of steps) {
      if (response.destroyed) return;
      await step(exchange);
    }
    if (!response.destroyed) response.end();
  };

// Ready-made handlers.

export interface ReplyOptions {
  /** Pieces to send it in, cut between code points. */
  readonly chunks?: number;
  readonly delayMs?: number;
  /** false: none is sent, even when it was asked for. */
  readonly usage?: boolean;
  readonly finishReason?: string;
}

/** A valid reply, streamed or whole as the request asks. */
export function reply(text: string, options: ReplyOptions = {}): Handler {
  const { chunks = 3, delayMs = 0, usage: counted = true, finishReason = 'stop' } = options;
  plantText(text);
  return (exchange) => {
    if (!exchange.request.body.stream) return wholeReply(text, finishReason, counted)(exchange);
    const characters = [...text];
    const size = Math.max(1, Math.ceil(characters.length / chunks));
    const steps = [role()];
    for (let at = 0; at < characters.length; at += size) {
      if (delayMs > 0) steps.push(wait(delayMs));
      steps.push(delta(characters.slice(at, at + size).join('')));
    }
    return script(...steps, finish(finishReason), ...(counted ? [usage()] : []), done())(exchange);
  };
}

function wholeReply(content: string | null, finishReason: string | null, counted: boolean): Handler {
  const choice = { index: 0, message: { role: 'assistant', content }, finish_reason: finishReason };
  const tokens = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 };
  return json({
    id: 'chatcmpl-1',
    model: 'fake-model',
    choices: [choice],
    ...(counted ? { usage: tokens } : {}),
  });
}

/** A response of 200 with this JSON. */
export const json = (body: unknown): Handler =>
  status(200, { 'content-type': 'application/json' }, JSON.stringify(body));

export const status =
  (
    code: number,
    headers: Record<string, string> = {},
    body = '{"error":{"message":"upstream says no"}}',
  ): Handler =>
  ({ response }) => {
    response.writeHead(code, {
      'content-type': 'application/json',
      'x-request-id': 'req-fake-1',
      ...headers,
    });
    response.end(body);
  };
/** Accepts the request and never responds. */
export const hang =
  (): Handler =>
  async ({ response }) => {
    if (!response.destroyed) await once(response, 'close');
  };
export const resetAtOnce = (): Handler => reset();
export const headersThenSilence = (): Handler => script(silence());
const said = (pieces: readonly string[]) => pieces.map((piece) => delta(piece));
export const thenSilence = (...pieces: string[]): Handler => script(...said(pieces), silence());
export const thenReset = (...pieces: string[]): Handler => script(...said(pieces), arrive(), reset());
export const endWithoutFinish = (...pieces: string[]): Handler => script(...said(pieces), done());
export const thenGarbage = (...pieces: string[]): Handler =>
  script(...said(pieces), raw('data: {garbled\n\n'), silence());
export const thenErrorObject = (...pieces: string[]): Handler =>
  script(...said(pieces), raw('data: {"error":{"message":"upstream says no","code":500}}\n\n'), silence());
/** A valid reply between chunks with an empty list of choices. */
export const emptyChoices = (text: string): Handler =>
  script(
    raw('data: {"choices":[]}\n\n'),
    usage(),
    delta(text),
    raw('data: {"choices":[]}\n\n'),
    finish(),
    done(),
  );
/** Some pieces, then a line of this many bytes without an end, then silence. */
export const hugeLine = (bytes: number, ...pieces: string[]): Handler =>
  script(
    ...said(pieces),
    raw('data: {"choices":[{"delta":{"content":"'),
    flood('x'.repeat(65_536), bytes),
    silence(),
  );
/** Sends the same piece without end, as fast as the client reads. */
export const endless = (piece: string): Handler =>
  script(flood(chunk({ content: piece }), Number.POSITIVE_INFINITY));

/** Writes the text repeatedly, with backpressure, until this many bytes are written. */
export function flood(text: string, bytes: number): Step {
  return async ({ response }) => {
    const gone = once(response, 'close');
    for (let sent = 0; sent < bytes && !response.destroyed; sent += text.length) {
      if (!response.write(text)) await Promise.race([gone, once(response, 'drain')]);
    }
  };
}
