/** Baseline: an Express route that parses and sends JSON. */
import type { AddressInfo } from 'node:net';
import express from 'express';

const app = express();
app.post('/api/chat', express.json(), (request, response) => {
  response.json({ response: 'x'.repeat(400), echo: request.body.message.length });
});
const server = app.listen(0, '127.0.0.1', () =>
  process.send?.({ port: (server.address() as AddressInfo).port }),
);
server.keepAliveTimeout = 60_000;
process.on('disconnect', () => process.exit());
