import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { it } from 'node:test';
import { takeOverChunking } from '../../../../src/http/sse/chunk-framing.ts';

/** The raw body of a response that writes two texts and ends. */
async function bodyOf(version: '1.0' | '1.1'): Promise<string> {
  const server = createServer((_request, response) => {
    response.writeHead(200);
    const { frame, end } = takeOverChunking(response);
    response.write(frame('您好'));
    response.end(frame('x'.repeat(20)) + end);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  socket.write(`GET / HTTP/${version}\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
  const response = await text(socket);
  server.close();
  return response.slice(response.indexOf('\r\n\r\n') + 4);
}

it('frames each text as one chunk, which Node does not frame again', async () => {
  assert.equal(await bodyOf('1.1'), `6\r\n您好\r\n14\r\n${'x'.repeat(20)}\r\n0\r\n\r\n`);
});

it('frames nothing for HTTP/1.0', async () => {
  assert.equal(await bodyOf('1.0'), `您好${'x'.repeat(20)}`);
});
