import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';

/** A connection and everything that came over it. */
class Peer {
  readonly socket: Socket;
  received = Buffer.alloc(0);
  pieces = 0;
  error = '';

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (piece) => {
      this.received = Buffer.concat([this.received, piece]);
      this.pieces += 1;
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.error = error.code ?? 'unknown';
    });
  }

  async has(bytes: number): Promise<string> {
    while (this.received.length < bytes) await once(this.socket, 'data');
    return this.received.toString();
  }

  /** The error that closed it, after that; empty when there was none. */
  closed(): Promise<string> {
    if (this.socket.closed) return Promise.resolve(this.error);
    return new Promise((resolve) => void this.socket.once('close', () => resolve(this.error)));
  }
}

describe('the fault proxy', () => {
  let server: Server;
  let proxy: FaultProxy;
  let accepted: Peer[];
  before(async () => {
    server = createServer({ allowHalfOpen: true }, (socket) => void accepted.push(new Peer(socket)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => void server.close());
  beforeEach(async () => {
    accepted = [];
    const address = server.address();
    assert(address && typeof address === 'object');
    proxy = await startFaultProxy(address.port);
  });
  afterEach(async () => {
    await proxy.close();
    for (const { socket } of accepted) socket.destroy();
  });

  /** A new connection: the client's end and the server's. */
  const dial = async (): Promise<[Peer, Peer]> => {
    const before = accepted.length;
    const client = new Peer(connect({ port: proxy.port, host: '127.0.0.1', allowHalfOpen: true }));
    while (accepted.length === before) await once(server, 'connection');
    const peer = accepted.at(-1);
    assert(peer);
    return [client, peer];
  };

  it('carries bytes both ways, unchanged, and closes each direction by itself', async () => {
    const [client, peer] = await dial();
    const big = Buffer.alloc(3_000_000, 'xyz');
    client.socket.end(big);
    await peer.has(big.length);
    assert(peer.received.equals(big));
    // The client has said its last; it still hears.
    peer.socket.end('answer');
    assert.equal(await client.has(6), 'answer');
    assert.equal(await client.closed(), '');
    assert.equal(await peer.closed(), '');
    assert.equal(proxy.connections(), 0);
  });

  it('cuts every connection by a reset that both ends see, and accepts new ones', async () => {
    const [first, firstPeer] = await dial();
    const [second] = await dial();
    assert.equal(proxy.connections(), 2);
    proxy.cut();
    assert.deepEqual(
      [await first.closed(), await firstPeer.closed(), await second.closed()],
      ['ECONNRESET', 'ECONNRESET', 'ECONNRESET'],
    );
    const [third, thirdPeer] = await dial();
    third.socket.write('again');
    assert.equal(await thirdPeer.has(5), 'again');
  });

  it('passes a reset of either end on to the other', async () => {
    const [client, peer] = await dial();
    peer.socket.resetAndDestroy();
    assert.equal(await client.closed(), 'ECONNRESET');
    const [other, otherPeer] = await dial();
    other.socket.resetAndDestroy();
    assert.equal(await otherPeer.closed(), 'ECONNRESET');
  });

  for (const [bytes, direction] of [
    [0, 'toServer'],
    [7, 'toServer'],
    [12, 'toServer'],
    [4, 'toClient'],
  ] as const) {
    it(`cuts after ${bytes} bytes ${direction}, no byte more or less, once`, async () => {
      const [client, peer] = await dial();
      const [from, to] = direction === 'toServer' ? [client, peer] : [peer, client];
      proxy.cutAfter(bytes, direction);
      to.socket.write('the other way does not count');
      await from.has(28);
      from.socket.write('12345');
      if (bytes > 5) await to.has(5);
      from.socket.write('6789012345');
      assert.equal(await to.closed(), 'ECONNRESET');
      assert.equal(to.received.toString(), '123456789012'.slice(0, bytes));
      const [next, nextPeer] = await dial();
      next.socket.write('not cut any more');
      await nextPeer.has(16);
    });
  }

  it('cuts where its observer says', async () => {
    const [client, peer] = await dial();
    proxy.watch((piece, direction) => {
      const at = piece.indexOf('COMMIT');
      return direction === 'toServer' && at >= 0 ? at + 3 : undefined;
    });
    client.socket.write('BEGIN');
    await peer.has(5);
    client.socket.write(';COMMIT;');
    assert.equal(await peer.closed(), 'ECONNRESET');
    assert.equal(peer.received.toString(), 'BEGIN;COM');
  });

  it('delays every chunk, in order', async () => {
    const [client, peer] = await dial();
    proxy.delay(60);
    const began = performance.now();
    client.socket.write('a');
    await pause(5);
    client.socket.write('b');
    assert.equal(await peer.has(2), 'ab');
    assert(performance.now() - began >= 59);
    proxy.delay(0);
  });

  it('sends a chunk in two halves', async () => {
    const [client, peer] = await dial();
    proxy.halve(true);
    client.socket.write('0123456789');
    assert.equal(await peer.has(5), '01234');
    assert.equal(await peer.has(10), '0123456789');
    assert.equal(peer.pieces, 2);
  });

  it('stalls one direction while the other moves, and resumes without loss', async () => {
    const [client, peer] = await dial();
    proxy.stall('toClient');
    peer.socket.write('held back');
    client.socket.write('moves');
    assert.equal(await peer.has(5), 'moves');
    await pause(30);
    assert.equal(client.received.length, 0);
    proxy.resume();
    assert.equal(await client.has(9), 'held back');
  });

  it('stalls a connection that sends a certain text, and no other', async () => {
    const [first, firstPeer] = await dial();
    const [second, secondPeer] = await dial();
    proxy.hold('SELECT');
    first.socket.write('SELECT 1');
    second.socket.write('UPDATE');
    assert.equal(await secondPeer.has(6), 'UPDATE');
    await pause(20);
    assert.equal(firstPeer.received.length, 0);
    proxy.resume();
    assert.equal(await firstPeer.has(8), 'SELECT 1');
  });

  it('can cut a stalled connection, and can end with one', async () => {
    const [client, peer] = await dial();
    proxy.stall('toServer');
    client.socket.write('never arrives');
    await pause(10);
    proxy.cut();
    assert.equal(await peer.closed(), 'ECONNRESET');
    assert.equal(peer.received.length, 0);
  });

  it('stops reading from a sender while it may not forward', async () => {
    const [client] = await dial();
    proxy.stall('toServer');
    const room = 64 * 1024 * 1024;
    client.socket.write(Buffer.alloc(room));
    await pause(100);
    assert(client.socket.writableLength > 0, 'it took 64 MiB');
    client.socket.destroy();
    proxy.resume();
  });

  it('rejects by a reset and accepts again', async () => {
    proxy.refuse();
    const refused = new Peer(connect(proxy.port, '127.0.0.1'));
    assert.equal(await refused.closed(), 'ECONNRESET');
    assert.equal(accepted.length, 0);
    proxy.accept();
    const [client, peer] = await dial();
    client.socket.write('x');
    await peer.has(1);
  });

  it('resets new connections while its target is down', async () => {
    const nowhere = createServer().listen(0, '127.0.0.1');
    await once(nowhere, 'listening');
    const address = nowhere.address();
    assert(address && typeof address === 'object');
    nowhere.close();
    await once(nowhere, 'close');
    const other = await startFaultProxy(address.port);
    const client = new Peer(connect(other.port, '127.0.0.1'));
    assert.equal(await client.closed(), 'ECONNRESET');
    await other.close();
  });
});
