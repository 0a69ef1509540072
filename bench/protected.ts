/** The server with API keys and rate limits. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Measured, startSubject } from './processes.ts';

const KEYS = fileURLToPath(new URL('../scripts/keys.ts', import.meta.url));
/** Limits that are counted but never reached. */
const LIMITS = {
  RATE_LIMIT_REQUESTS: '1000000000',
  RATE_LIMIT_STREAMS: '1000000',
  RATE_LIMIT_TOKENS: '1000000000000',
  RATE_LIMIT_EXPORTS: '1000000000',
};

export interface ProtectedServer extends Measured {
  readonly headers: Readonly<Record<string, string>>;
}

/** Starts a server that requires API keys and counts every limit, with a key for it. */
export async function startProtected(
  upstreamPort: number,
  databaseUrl: string | undefined,
): Promise<ProtectedServer> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-api-bench-keys-'));
  const url = databaseUrl ?? `sqlite:${join(folder, 'chat.sqlite')}`;
  const env = { ...process.env, DATABASE_URL: url, DB_AUTO_MIGRATE: 'on' };
  const args = [KEYS, 'create', '--owner', 'bench', '--scopes', 'chat'];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env });
  const key = /^key +(\S+)$/m.exec(stdout)?.[1];
  if (key === undefined) throw new Error('no key was created');
  const server = await startSubject(upstreamPort, url, { AUTH: 'required', ...LIMITS });
  const stop = async () => {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  };
  return { ...server, stop, headers: { authorization: `Bearer ${key}` } };
}
