/**
 * Streams a reply, resumes it when the connection breaks, repeats the question safely, and stops it with Ctrl+C.
 *
 *   node examples/stream.mjs "Hello"
 *
 * API_URL names another server than the default, API_KEY the key that it asks for.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { EventSourceParserStream } from 'eventsource-parser/stream';

const { API_URL = 'http://127.0.0.1:5010', API_KEY } = process.env;
const RETRIES = 5;

async function call(path, { headers, ...options } = {}) {
  const authorization = API_KEY ? { authorization: `Bearer ${API_KEY}` } : {};
  const response = await fetch(API_URL + path, { ...options, headers: { ...headers, ...authorization } });
  if (response.ok) return response;
  // A problem document says what to do.
  const problem = await response.json().catch(() => ({ detail: response.statusText }));
  throw Object.assign(new Error(problem.detail), { status: response.status });
}

/** @returns the body of `done` */
async function ask(message, onText, onStart) {
  // The same key for every try: the question is stored and answered once.
  const key = randomUUID();
  let stream;
  let last;
  for (let attempt = 0; ; attempt += 1) {
    try {
      const response = stream
        ? await call(`/api/chat-stream/${stream}`, { headers: last ? { 'last-event-id': last } : {} })
        : await call('/api/chat-stream', {
            method: 'POST',
            headers: { 'content-type': 'application/json', 'idempotency-key': key },
            body: JSON.stringify({ message }),
          });
      const events = response.body
        .pipeThrough(new TextDecoderStream())
        .pipeThrough(new EventSourceParserStream());
      for await (const { event, id, data } of events) {
        last = id ?? last;
        const body = JSON.parse(data);
        if (event === 'error') throw Object.assign(new Error(body.detail), { status: body.status });
        if (event === 'done') return body;
        if (event === 'start') {
          stream = body.stream_id;
          onStart(stream);
        } else {
          attempt = 0;
          onText(body.content);
        }
      }
    } catch (error) {
      // 429 and 503 are temporary; an error without a status is a broken connection.
      if (error.status && ![429, 503].includes(error.status)) throw error;
      if (attempt === RETRIES) throw error;
    }
    await pause(1000 * 2 ** attempt);
  }
}

let running;
process.once('SIGINT', () => {
  if (running) void call(`/api/chat-stream/${running}`, { method: 'DELETE' });
});

try {
  const done = await ask(
    process.argv[2] ?? 'Hello',
    (text) => process.stdout.write(text),
    (stream) => {
      running = stream;
    },
  );
  console.log(`\n[${done.finish_reason}]`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
