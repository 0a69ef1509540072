import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { plantText } from '../support/planted.ts';

const PACE_MS = 15;
/** Characters of a streamed piece. */
const PIECE = 12;
/** In an answer: the rest is sent after {@link Upstream.resume}. */
export const PAUSE = '\f';
/** Longer than SSE_OPEN_MS. */
const LATE_MS = 1200;

interface Part {
  readonly text?: string;
  readonly image_url?: { readonly url: string };
}

export interface ModelRequest {
  readonly messages: readonly { readonly role: string; readonly content: string | readonly Part[] }[];
  readonly [parameter: string]: unknown;
}

export interface Upstream {
  readonly baseUrl: string;
  /** The last one. */
  readonly request: ModelRequest | undefined;
  /** Continues an answer at its {@link PAUSE}, which it may not have reached yet. */
  resume(): void;
  close(): Promise<void>;
}

const USAGE = { prompt_tokens: 38, completion_tokens: 52, total_tokens: 90 };
const THOUGHTS = 30;
const MODELS = { object: 'list', data: [{ id: 'small-model' }, { id: 'large-model' }] };
const CALLS = [
  ['weather', '{"city":"Ghent","id":12345678901234567890}'],
  ['time', 'no JSON'],
].map(([name, args], index) => {
  return { index, id: `call_${index}`, type: 'function', function: { name, arguments: args } };
});
const PIECES = new RegExp(`${PAUSE}|[^${PAUSE}]{1,${PIECE}}`, 'gu');
const WORDS = ['word 0 ', 'word 1 ', 'word 2 '];

function send(response: ServerResponse, delta: object, finish: string | null): void {
  const chunk = {
    id: 'c1',
    object: 'chat.completion.chunk',
    created: 1,
    model: 'm',
    choices: [{ index: 0, delta, finish_reason: finish }],
    ...(finish === null ? {} : { usage: USAGE }),
  };
  response.write(`data: ${JSON.stringify(chunk)}\n\n`);
}

function lastQuestion({ messages }: ModelRequest): string {
  const content = messages.at(-1)?.content ?? '';
  return typeof content === 'string' ? content : content.map(({ text }) => text ?? '').join('');
}

/**
 * A model server that does what the question says: `busy` is refused with 429, `late` too, when the stream is open,
 * `think` begins with reasoning, `counter` is answered with the number of its calls, `busy later` is refused from the
 * second time on, `busy once` the first time, `tools` is answered with the calls of two tools, `slow` is answered after that time, `endless` never ends, `broken` is reset after some words,
 * `broken once` the first time; anything else is answered with three words.
 * @param answers answers to other questions
 */
export async function startUpstream(answers: Readonly<Record<string, string>> = {}): Promise<Upstream> {
  const seen = new Map<string, number>();
  let last: ModelRequest | undefined;
  let isPaused = true;
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request.setEncoding('utf8')) body += piece;
    if (request.method === 'GET') {
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(MODELS));
      return;
    }
    const parsed: ModelRequest = JSON.parse(body);
    last = parsed;
    const asked = lastQuestion(parsed);
    const times = (seen.get(asked) ?? 0) + 1;
    seen.set(asked, times);
    for (const text of [asked, answers[asked] ?? '']) plantText(text);
    if (asked === 'late' || asked === 'slow') await pause(LATE_MS);
    const isBusy = (asked === 'busy once' && times === 1) || (asked === 'busy later' && times > 1);
    if (asked === 'busy' || asked === 'late' || isBusy) {
      response.writeHead(429, { 'retry-after': '7' }).end('{}');
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    if (asked === 'tools') {
      send(response, { tool_calls: CALLS }, null);
      send(response, {}, 'tool_calls');
      response.end('data: [DONE]\n\n');
      return;
    }
    const answer = asked === 'counter' ? `number ${times}` : answers[asked];
    const words = answer?.match(PIECES) ?? WORDS;
    let sent = 0;
    let thoughts = asked === 'think' ? THOUGHTS : 0;
    const timer = setInterval(() => {
      if (thoughts > 0) {
        send(response, { reasoning_content: `thought ${thoughts} ` }, null);
        thoughts -= 1;
        return;
      }
      if (words[sent] === PAUSE) {
        if (isPaused) return;
        isPaused = true;
        sent += 1;
        return;
      }
      send(response, { content: words[sent] ?? `word ${sent} ` }, null);
      sent += 1;
      if (sent < words.length || asked === 'endless') return;
      clearInterval(timer);
      if (asked === 'broken' || (asked === 'broken once' && times === 1)) response.destroy();
      else {
        send(response, {}, 'stop');
        response.end('data: [DONE]\n\n');
      }
    }, PACE_MS);
    response.on('close', () => clearInterval(timer));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    get request() {
      return last;
    },
    resume: () => {
      isPaused = false;
    },
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
