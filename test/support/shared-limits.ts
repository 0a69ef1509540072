/** Servers that count requests together. */
import { z } from 'zod';
import { type ChatServer, until } from './chat-server.ts';

export const STORE_DOWN = /^rate limit store unavailable, counting locally$/;
export const REQUESTS = 30;
export const EXPORTS = 10;
export const STREAMS = 10;
export const LIMITS = {
  RATE_LIMIT_REQUESTS: `${REQUESTS}`,
  RATE_LIMIT_EXPORTS: `${EXPORTS}`,
  RATE_LIMIT_STREAMS: `${STREAMS}`,
  // Each caller of a test has an address of its own.
  TRUST_PROXY: '1',
};

const workerRows = z.array(z.object({ id: z.string(), beat: z.number() }));

let callers = 0;
export const newAddress = () => `10.${process.pid % 256}.${callers >> 8}.${callers++ & 255}`;

/** Every process has looked around once since the last of them showed itself. */
export async function untilAllKnow(count: number, read: () => Promise<unknown>): Promise<void> {
  const beats = async () => new Map(workerRows.parse(await read()).map(({ id, beat }) => [id, beat]));
  const first = await until('all workers', async () => {
    const found = await beats();
    return found.size >= count && found;
  });
  await until('another look of all', async () => {
    const found = await beats();
    // One that has gone was left by an earlier test.
    return [...first].every(([id, beat]) => (found.get(id) ?? Number.POSITIVE_INFINITY) >= beat + 2);
  });
}

/** The same for two servers of this process, whether they share a database or not. */
export const untilBothKnow = (...servers: [ChatServer, ChatServer]): Promise<void> =>
  untilAllKnow(2, async () =>
    (
      await Promise.all(
        servers.map(({ server }) => server.database.knex.select('id', 'beat').from('workers')),
      )
    ).flat(),
  );
