import { setImmediate } from 'node:timers/promises';

/** UTF-16 units that are processed in one step, so that no step blocks the event loop for long. */
export const MAX_STEP = 16 * 1024;

/** Cuts a text into pieces of at most `size` units, never inside a surrogate pair. */
export function* cut(text: string, size = MAX_STEP): Generator<string> {
  let from = 0;
  while (text.length - from > size) {
    const last = text.charCodeAt(from + size - 1);
    const to = from + size - (last >= 0xd800 && last <= 0xdbff ? 1 : 0);
    yield text.slice(from, to);
    from = to;
  }
  if (from < text.length) yield text.slice(from);
}

/**
 * The pieces of a long text. Between two of them the event loop serves others.
 * @throws the reason of `signal` when it aborts
 */
export async function* piecesOf(text: string, signal?: AbortSignal): AsyncGenerator<string> {
  let isFirst = true;
  for (const piece of cut(text)) {
    if (!isFirst) await setImmediate();
    isFirst = false;
    signal?.throwIfAborted();
    yield piece;
  }
}
