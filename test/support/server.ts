import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startServer as compose, type Overrides, type RunningServer } from '../../src/compose/index.ts';
import { loadConfig } from '../../src/config/config.ts';
import { createLogger } from '../../src/logger.ts';
import { RequestContext } from '../../src/request-context.ts';
import { createSqlite } from './migrated.ts';
import { plantMessage, plantSettings, recordLog } from './planted.ts';

export interface TestServer extends RunningServer {
  /** Every log line so far, parsed. */
  readonly lines: readonly Record<string, unknown>[];
  /** POST with a JSON body; a string is sent unchanged. */
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  get(path: string, headers?: Record<string, string>): Promise<Response>;
}

/**
 * The composed server on a free port, with a database of its own (SQLite in a temporary folder unless DATABASE_URL
 * says otherwise) and the demo model unless OPENAI_BASE_URL does.
 */
export async function startServer(
  env: Record<string, string> = {},
  overrides: Overrides = {},
): Promise<TestServer> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-api-test-'));
  const own = ['DATABASE_URL', 'DATA_DIR', 'DB_AUTO_MIGRATE'].every((name) => env[name] === undefined);
  if (own) await createSqlite(join(folder, 'chat.sqlite'));
  const lines: Record<string, unknown>[] = [];
  const context = new RequestContext();
  plantSettings(env);
  const config = loadConfig({ PORT: '0', DATA_DIR: folder, SHUTDOWN_GRACE_MS: '5000', ...env });
  const options = { level: 'debug', file: undefined, masked: config.piiMask.logs };
  const log = createLogger(options, () => context.fields(), {
    write(line) {
      recordLog(line);
      lines.push(JSON.parse(line));
    },
  });
  const server = await compose(config, '0.0.0-test', log, context, overrides);
  return {
    ...server,
    lines,
    async stop() {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
    post(path, body, headers = {}) {
      plantMessage(body);
      return fetch(`${server.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      });
    },
    get: (path, headers = {}) => fetch(`${server.url}${path}`, { headers }),
  };
}
