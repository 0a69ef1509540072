import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { plantText } from '../support/planted.ts';

const PACE_MS = 15;
/** Longer than SSE_OPEN_MS. */
const LATE_MS = 1200;

export interface Upstream {
  readonly baseUrl: string;
  close(): Promise<void>;
}

const USAGE = { prompt_tokens: 38, completion_tokens: 52, total_tokens: 90 };
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

function lastQuestion(body: string): string {
  const { messages }: { messages: { content: string }[] } = JSON.parse(body);
  return messages.at(-1)?.content ?? '';
}

/**
 * A model server that does what the question says: `busy` is refused with 429, `late` too, when the stream is open,
 * `slow` is answered after that time, `endless` never ends, `broken` is reset after some words, `broken once` the first time; anything else is answered with three words.
 * @param answers answers to other questions
 */
export async function startUpstream(answers: Readonly<Record<string, string>> = {}): Promise<Upstream> {
  const seen = new Set<string>();
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request.setEncoding('utf8')) body += piece;
    if (request.method === 'GET') {
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"object":"list","data":[]}');
      return;
    }
    const asked = lastQuestion(body);
    for (const text of [asked, answers[asked] ?? '']) plantText(text);
    if (asked === 'late' || asked === 'slow') await pause(LATE_MS);
    if (asked === 'busy' || asked === 'late') {
      response.writeHead(429, { 'retry-after': '7' }).end('{}');
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const words = answers[asked]?.match(/.{1,4}/gsu) ?? WORDS;
    let sent = 0;
    const repeated = seen.has(asked);
    seen.add(asked);
    const timer = setInterval(() => {
      send(response, { content: words[sent] ?? `word ${sent} ` }, null);
      sent += 1;
      if (sent < words.length || asked === 'endless') return;
      clearInterval(timer);
      if (asked === 'broken' || (asked === 'broken once' && !repeated)) response.destroy();
      else {
        send(response, {}, 'stop');
        response.end('data: [DONE]\n\n');
      }
    }, PACE_MS);
    response.on('close', () => clearInterval(timer));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
