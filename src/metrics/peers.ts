/**
 * With these functions workers of one host ask each other to store their metrics, over a Unix domain socket or named
 * pipe.
 */
import { rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';

const ASK_TIMEOUT_MS = 500;

export interface Listener {
  /** Whether other workers can ask this one. */
  readonly isListening: boolean;
  close(): Promise<void>;
}

/** Calls `save` for each connection, then closes the connection. Also resolves when it cannot listen. */
export async function listenForPeers(
  folder: string,
  worker: string,
  save: () => Promise<unknown>,
): Promise<Listener> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.resume();
    const close = () => socket.destroy();
    void save().then(close, close);
  });
  const isListening = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false));
    // A worker of Node's cluster would otherwise share the socket of its primary.
    server.listen({ path: addressOf(folder, worker), exclusive: true }, () => resolve(true));
  });
  server.on('error', () => {});
  server.unref();
  return {
    isListening,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Resolves when the other worker has stored its metrics, or does not answer in time. */
export function askPeer(folder: string, worker: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect({ path: addressOf(folder, worker) });
    socket.setTimeout(ASK_TIMEOUT_MS, () => socket.destroy());
    socket.on('error', () => {});
    socket.on('close', () => resolve());
    socket.resume();
  });
}

/** Removes the socket file of a dead worker. */
export function forgetPeer(folder: string, worker: string): void {
  if (process.platform !== 'win32') rmSync(addressOf(folder, worker), { force: true });
}

/** Uses only the last part of the worker's id, which is random, because socket paths are limited to about 100 bytes. */
function addressOf(folder: string, worker: string): string {
  const name = worker.slice(-12);
  return process.platform === 'win32' ? `\\\\.\\pipe\\chat-api-${name}` : join(folder, `${name}.sock`);
}
