import type { Response } from 'express';

/** Aborted when the response is closed, also because the client has left. */
export function closeSignal(response: Response): AbortSignal {
  const closed = new AbortController();
  if (response.closed) closed.abort();
  else response.once('close', () => closed.abort());
  return closed.signal;
}
