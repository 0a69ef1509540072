/** Two servers in one process that share a database and a model server. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Overrides } from '../../src/compose/index.ts';
import { type ChatServer, type databases, startChat } from './chat-server.ts';

export interface Pair {
  /** Its `upstream` is the model server of both. */
  readonly a: ChatServer;
  readonly b: ChatServer;
  stop(): Promise<void>;
}

/** @param place the database, which is dropped afterwards */
export async function startPair(
  place: ReturnType<typeof databases>[number],
  env: Record<string, string> = {},
  overrides: Overrides = {},
): Promise<Pair> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-pair-'));
  const shared = { DATABASE_URL: `sqlite:${join(folder, 'chat.sqlite')}`, ...(await place.create()), ...env };
  const a = await startChat(shared, overrides);
  const b = await startChat({ ...shared, OPENAI_BASE_URL: a.upstream.baseUrl }, overrides);
  return {
    a,
    b,
    async stop() {
      await Promise.all([a.stop(), b.stop()]);
      await place.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
