/** What a server does with a connection to the end: everything it says, and that it closes. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

export interface Conversation {
  readonly statuses: readonly number[];
  /** Of the last answer. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
  /** Whether the server closed the connection; else it stayed open and silent. */
  readonly closed: boolean;
}

/** @param quietMs how long nothing must come before an open connection counts as one that stays open */
export async function converse(url: string, bytes: string, quietMs = 500): Promise<Conversation> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.setEncoding('latin1');
  let said = '';
  socket.on('data', (piece) => {
    said += piece;
  });
  // A server that closes with bytes unread resets; what it said before is what counts.
  socket.on('error', () => {});
  const ended = new Promise<true>((resolve) => socket.once('close', () => resolve(true)));
  socket.on('end', () => socket.destroy());
  socket.write(bytes, 'latin1');
  let closed = false;
  for (let before = -1; !closed && (before !== said.length || said === ''); ) {
    before = said.length;
    closed = await Promise.race([ended, pause(quietMs, false)]);
  }
  socket.destroy();
  return { ...lastAnswer(said), closed };
}

function lastAnswer(said: string): Omit<Conversation, 'closed'> {
  const lines = [...said.matchAll(/^HTTP\/1\.1 (\d{3}) /gm)];
  const statuses = lines.map(([, status]) => Number(status));
  const last = said.slice(lines.at(-1)?.index ?? said.length);
  const end = last.indexOf('\r\n\r\n');
  assert(statuses.length === 0 || end > 0, `no whole head: ${last}`);
  const headers = new Map(
    last
      .slice(0, Math.max(end, 0))
      .split('\r\n')
      .slice(1)
      .map((line) => [
        line.slice(0, line.indexOf(':')).toLowerCase(),
        line.slice(line.indexOf(':') + 1).trim(),
      ]),
  );
  return { statuses, headers, body: last.slice(end + 4) };
}
