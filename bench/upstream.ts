/** Stand-in for a model server: paced streams, immediate JSON, and streams that stay open, at little cost. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

const CHUNKS = 200;
const PACE_MS = 2;

const WORDS =
  'The **quick** brown fox, 它跳过了 那只 `lazy` 狗。 Then:\n\n- one\n- two\n\n'.match(/.{1,4}/gsu) ?? [];

function chunk(delta: object, finish: string | null = null): string {
  const choice = { index: 0, delta, logprobs: null, finish_reason: finish };
  const head = {
    id: 'chatcmpl-bench',
    object: 'chat.completion.chunk',
    created: 1_770_000_000,
    model: 'stand-in',
  };
  return `data: ${JSON.stringify({ ...head, choices: [choice] })}\n\n`;
}

const USAGE = { prompt_tokens: 12, completion_tokens: CHUNKS, total_tokens: 12 + CHUNKS };
const PIECES = Array.from({ length: CHUNKS }, (_, i) => chunk({ content: WORDS[i % WORDS.length] }));
const END = `${chunk({}, 'stop')}data: ${JSON.stringify({ id: 'chatcmpl-bench', object: 'chat.completion.chunk', choices: [], usage: USAGE })}\n\ndata: [DONE]\n\n`;
const WHOLE = JSON.stringify({
  id: 'chatcmpl-bench',
  object: 'chat.completion',
  model: 'stand-in',
  choices: [
    { index: 0, message: { role: 'assistant', content: WORDS.join('').repeat(6) }, finish_reason: 'stop' },
  ],
  usage: USAGE,
});

const open = new Map<ServerResponse, number>();

setInterval(() => {
  for (const [response, sent] of open) {
    if (sent < CHUNKS) {
      response.write(PIECES[sent]);
      open.set(response, sent + 1);
    } else {
      response.end(END);
      open.delete(response);
    }
  }
}, PACE_MS);

const server = createServer((request, response) => {
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (piece: string) => {
    body += piece;
  });
  request.on('end', () => {
    if (!body.includes('"stream":true')) {
      response.writeHead(200, {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(WHOLE),
      });
      response.end(WHOLE);
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(chunk({ role: 'assistant', content: '' }));
    if (body.includes('hold the line')) response.write(PIECES[0]);
    else open.set(response, 0);
    response.on('close', () => open.delete(response));
  });
});
server.keepAliveTimeout = 60_000;
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () =>
  process.send?.({ port: (server.address() as AddressInfo).port }),
);
process.on('disconnect', () => process.exit());
