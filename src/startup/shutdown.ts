import { AppError } from '../domain/errors.ts';
import type { HttpServer } from '../http/server/server.ts';
import type { Generations } from '../services/chat/generations.ts';
import type { TurnRecorder } from '../services/chat/turn-recorder.ts';
import { within } from '../util/timers.ts';

/** After the grace, how long a broken-off reply may still take to be saved and its last event to leave. */
const LAST_WORDS_MS = 3000;

/**
 * Takes no new connections and lets what is under way finish; after the grace replies are broken off, saved as far as
 * they came, and their readers told.
 */
export async function drain(
  server: HttpServer,
  turns: TurnRecorder,
  generations: Generations,
  graceMs: number,
): Promise<void> {
  const { closed, force } = server.close();
  const finished = Promise.all([closed, generations.idle(), turns.idle()]).then(() => true);
  if (await within(graceMs, finished, () => false)) return;
  generations.abortAll(
    new AppError('shutting_down', 'This server is shutting down; ask again in a moment', { retryAfter: 3 }),
  );
  if (await within(LAST_WORDS_MS, finished, () => false)) return;
  force();
  await within(LAST_WORDS_MS, finished, () => false);
}
