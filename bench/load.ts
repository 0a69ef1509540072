import { Agent, type ClientRequest, request } from 'node:http';

export interface Call {
  readonly port: number;
  readonly path: string;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Timing {
  /** Milliseconds until the first byte of the reply's content. */
  readonly first: number;
  readonly bytes: number;
}

const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });

function post(call: Call): ClientRequest {
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(call.body),
    ...call.headers,
  };
  const { port, path } = call;
  return request({ host: '127.0.0.1', port, path, method: 'POST', agent, headers });
}

/** One call to its end. Throws on any status but 200 and on a cut. */
function once(call: Call): Promise<Timing> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const outgoing = post(call);
    outgoing.on('error', reject);
    outgoing.on('response', (reply) => {
      if (reply.statusCode !== 200) reject(new Error(`status ${reply.statusCode}`));
      let first = 0;
      let bytes = 0;
      reply.on('data', (piece: Buffer) => {
        // The first event of either server may be an empty one; the first word is what a reader waits for.
        if (first === 0 && (bytes > 0 || piece.includes('The'))) first = performance.now() - began;
        bytes += piece.length;
      });
      reply.on('end', () => resolve({ first, bytes }));
      reply.on('error', reject);
    });
    outgoing.end(call.body);
  });
}

/**
 * `total` calls, `atOnce` at a time.
 * @param spreadMs over which the first of each worker are spread: callers do not all come in the same millisecond, and
 *   calls that take equally long would otherwise keep meeting
 */
export async function run(
  total: number,
  atOnce: number,
  spreadMs: number,
  call: (i: number) => Call,
): Promise<Timing[]> {
  const timings: Timing[] = [];
  let next = 0;
  const worker = async (_: unknown, index: number) => {
    await new Promise((resolve) => setTimeout(resolve, (index * spreadMs) / atOnce));
    while (next < total) {
      next += 1;
      timings.push(await once(call(next)));
    }
  };
  await Promise.all(Array.from({ length: atOnce }).map(worker));
  return timings;
}

/** Opens `count` streams, waits until each has said something, and leaves them open until `close`. */
export async function hold(count: number, call: Call): Promise<{ close(): void }> {
  const open: ClientRequest[] = [];
  const one = () =>
    new Promise<void>((resolve, reject) => {
      const outgoing = post(call);
      open.push(outgoing);
      outgoing.on('error', reject);
      outgoing.on('response', (reply) => {
        reply.on('error', () => {});
        reply.on('data', (piece: Buffer) => {
          if (piece.includes('The')) resolve();
        });
      });
      outgoing.end(call.body);
    });
  for (let i = 0; i < count; i += 50) await Promise.all(Array.from({ length: Math.min(50, count - i) }, one));
  return {
    close() {
      for (const outgoing of open) {
        outgoing.removeAllListeners('error').on('error', () => {});
        outgoing.destroy();
      }
    },
  };
}

export function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))] ?? Number.NaN;
}
