import { errorCode } from '../domain/errors.ts';
import type { createMetricsApp } from '../http/app.ts';
import { HttpServer } from '../http/server/server.ts';
import type { Logger } from '../logger.ts';
import { pause } from '../util/timers.ts';

const RETRY_MS = 1000;
/** No body is expected. */
const BODY_LIMIT = 0;

/** Serves `app` on a port of this worker alone. While a worker that is being replaced has the port, it is tried again. */
export function openMetricsPort(
  app: ReturnType<typeof createMetricsApp>,
  port: number,
  host: string,
  log: Logger,
) {
  const server = new HttpServer(app, { bodyLimit: BODY_LIMIT, log });
  const quit = new AbortController();
  const listen = async () => {
    for (let tried = 0; !quit.signal.aborted; tried += 1) {
      try {
        await server.listen(port, host, true);
        log.info({ port }, 'metrics port open');
        return true;
      } catch (error) {
        if (tried === 0) log.warn({ port, code: errorCode(error) }, 'metrics port not open, will retry');
        await pause(RETRY_MS, quit.signal);
      }
    }
    return false;
  };
  const listening = listen();
  return {
    async stop(): Promise<void> {
      quit.abort();
      if (!(await listening)) return;
      const { closed, force } = server.close(0);
      force();
      await closed;
    },
  };
}
