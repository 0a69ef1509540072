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

/** Makes one call. Rejects for any status but 200, and if the response breaks off. */
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
        // The first event can be empty, so the time is taken at the first word.
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
 * Makes `total` calls, `concurrency` at a time.
 * @param spreadMs time over which the workers start, so that calls of equal length do not run in lockstep
 */
export async function run(
  total: number,
  concurrency: number,
  spreadMs: number,
  call: (i: number) => Call,
): Promise<Timing[]> {
  const timings: Timing[] = [];
  let next = 0;
  const worker = async (_: unknown, index: number) => {
    await new Promise((resolve) => setTimeout(resolve, (index * spreadMs) / concurrency));
    while (next < total) {
      next += 1;
      timings.push(await once(call(next)));
    }
  };
  await Promise.all(Array.from({ length: concurrency }).map(worker));
  return timings;
}

/** Opens `count` streams, waits for the first content of each, and keeps them open until `close`. */
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
