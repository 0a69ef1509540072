import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import type { LookupAddress } from 'node:dns';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { Webhook as Verifier } from 'standardwebhooks';
import { DeliveryError } from '../../src/notify/delivery-error.ts';
import { createWebhook, type WebhookOptions, webhookSecret } from '../../src/notify/webhook.ts';
import { AT, doneJob, queuedJob } from './jobs.ts';

const SECRET = `whsec_${randomBytes(24).toString('base64')}`;

interface Received {
  readonly url: string | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

/** A receiver on loopback; `respond` is called when the whole request has arrived. */
async function receiver(
  t: TestContext,
  answer: RequestListener = (_request, response) => void response.end(),
) {
  const received: Received[] = [];
  let connections = 0;
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    received.push({ url: request.url, headers: request.headers, body: Buffer.concat(chunks).toString() });
    answer(request, response);
  });
  server.on('connection', () => {
    connections += 1;
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { port, received, connections: () => connections };
}

/** Resolves to the given addresses, one list per call; the last is repeated. */
function names(...answers: readonly string[][]) {
  let asked = 0;
  const resolve = (): Promise<LookupAddress[]> => {
    const addresses = answers[Math.min(asked, answers.length - 1)] ?? [];
    asked += 1;
    return Promise.resolve(addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })));
  };
  return { resolve, asked: () => asked };
}

const webhook = (over: Partial<WebhookOptions> = {}) =>
  createWebhook({
    secret: () => Promise.resolve(SECRET),
    present: ({ id, status }) => ({ id, status, text: '好' }),
    allowPrivate: true,
    clock: { now: () => Date.now() },
    ...over,
  });

describe('a webhook', () => {
  it('posts the job as JSON, signed as Standard Webhooks specifies', async (t) => {
    const { port, received } = await receiver(t);
    const job = doneJob();
    await webhook()(job, `http://127.0.0.1:${port}/hook?x=1`);
    const [{ url, headers, body } = { url: '', headers: {}, body: '' }] = received;
    assert.equal(url, '/hook?x=1');
    assert.equal(headers['content-type'], 'application/json');
    assert.deepEqual(JSON.parse(body), {
      type: 'export.done',
      timestamp: new Date(AT + 1000).toISOString(),
      data: { id: job.id, status: 'done', text: '好' },
    });
    const signed = headers as Record<string, string>;
    new Verifier(SECRET).verify(body, signed);
    const other = `whsec_${randomBytes(24).toString('base64')}`;
    assert.throws(() => new Verifier(other).verify(body, signed));
    assert.throws(() => new Verifier(SECRET).verify(`${body} `, signed));
  });

  it('is signed with the key that the documented shell command derives', async (t) => {
    const { port, received } = await receiver(t);
    const key = createHmac('sha256', 'link secret').update('webhook').digest();
    await webhook({ secret: async () => webhookSecret('link secret') })(
      doneJob(),
      `http://127.0.0.1:${port}/`,
    );
    const [{ headers, body } = { headers: {}, body: '' }] = received;
    new Verifier(key, { format: 'raw' }).verify(body, headers as Record<string, string>);
  });

  it('has a stable id, and the time of the attempt', async (t) => {
    const { port, received } = await receiver(t);
    const job = queuedJob({ status: 'failed', error: 'no' });
    let now = AT;
    const hook = webhook({ clock: { now: () => now } });
    await hook(job, `http://127.0.0.1:${port}/`);
    now += 60_000;
    await hook(job, `http://127.0.0.1:${port}/`);
    const [one, two] = received;
    assert.equal(one?.headers['webhook-id'], two?.headers['webhook-id']);
    assert.equal(Number(two?.headers['webhook-timestamp']) - Number(one?.headers['webhook-timestamp']), 60);
    assert.match(one?.body ?? '', /"type":"export.failed"/);
  });

  for (const status of [200, 204, 299]) {
    it(`is delivered when the response is ${status}`, async (t) => {
      const { port } = await receiver(t, (_request, response) => void response.writeHead(status).end());
      await webhook()(doneJob(), `http://127.0.0.1:${port}/`);
    });
  }

  for (const [status, permanent] of [
    [301, false],
    [400, false],
    [410, true],
    [500, false],
  ] as const) {
    it(`fails ${permanent ? 'permanently' : 'temporarily'} when the response is ${status}`, async (t) => {
      const { port } = await receiver(t, (_request, response) => void response.writeHead(status).end());
      await assert.rejects(webhook()(doneJob(), `http://127.0.0.1:${port}/`), (error) => {
        assert(error instanceof DeliveryError);
        assert.equal(error.permanent, permanent);
        assert.match(error.message, new RegExp(String(status)));
        return true;
      });
    });
  }

  it('follows no redirect', async (t) => {
    const other = await receiver(t);
    const location = `http://127.0.0.1:${other.port}/`;
    const { port, received } = await receiver(
      t,
      (_request, response) => void response.writeHead(307, { location }).end(),
    );
    await assert.rejects(webhook()(doneJob(), `http://127.0.0.1:${port}/`), /307/);
    assert.deepEqual([received.length, other.connections()], [1, 0]);
  });

  it('fails at its timeout when there is no response', async (t) => {
    const { port } = await receiver(t, () => {});
    const began = performance.now();
    await assert.rejects(
      webhook({ timeoutMs: 200 })(doneJob(), `http://127.0.0.1:${port}/`),
      /within 200 ms/,
    );
    assert.ok(performance.now() - began < 2000);
  });

  it('is delivered when the response body never ends', async (t) => {
    const { port } = await receiver(t, (_request, response) => void response.writeHead(200).write('so '));
    // It takes all of this time, in which the head must have come.
    await webhook({ timeoutMs: 1000 })(doneJob(), `http://127.0.0.1:${port}/`);
  });

  it('is delivered when the response body breaks off', async (t) => {
    const { port } = await receiver(t, (_request, response) => {
      response.writeHead(200, { 'content-length': 100 }).write('so ');
      setImmediate(() => response.destroy());
    });
    await webhook()(doneJob(), `http://127.0.0.1:${port}/`);
  });

  it('reads at most 64 KB of an endless response', async (t) => {
    let sent = 0;
    let closed: Promise<unknown> = Promise.resolve();
    const { port } = await receiver(t, (_request, response) => {
      closed = once(response, 'close');
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(16 * 1024))) sent += 16 * 1024;
      };
      response.on('drain', more).writeHead(200);
      more();
    });
    await webhook({ timeoutMs: 5000 })(doneJob(), `http://127.0.0.1:${port}/`);
    await closed;
    // What the system's buffers hold comes on top.
    assert.ok(sent < 16 * 1024 * 1024, `${sent} bytes`);
  });

  it('reports neither the URL nor the address in its errors', async () => {
    const { resolve } = names(['127.0.0.1']);
    await assert.rejects(webhook({ resolve })(doneJob(), 'http://hooks.test:1/token'), (error) => {
      assert(error instanceof DeliveryError);
      assert.doesNotMatch(error.message, /hooks|token|127/);
      assert.match(error.message, /ECONNREFUSED/);
      return true;
    });
  });
});

describe('a webhook to a private address', () => {
  const refused = (error: unknown) => {
    assert(error instanceof DeliveryError);
    assert.equal(error.permanent, true);
    assert.match(error.message, /public|private|password/);
    return true;
  };

  for (const addresses of [
    ['127.0.0.1'],
    ['8.8.8.8', '127.0.0.1'],
    ['::1'],
    ['2606:4700::1111', '::ffff:127.0.0.1'],
    ['64:ff9b::7f00:1'],
    [],
  ]) {
    it(`is rejected when its name resolves to ${addresses.join(' and ') || 'nothing'}`, async (t) => {
      const { port, connections } = await receiver(t);
      const { resolve, asked } = names(addresses);
      const hook = webhook({ allowPrivate: false, resolve });
      await assert.rejects(hook(doneJob(), `http://hooks.test:${port}/`), refused);
      assert.deepEqual([asked(), connections()], [1, 0]);
    });
  }

  it('is rejected when its name is localhost, resolved by the system', async (t) => {
    const { port, connections } = await receiver(t);
    await assert.rejects(webhook({ allowPrivate: false })(doneJob(), `http://localhost:${port}/`), refused);
    assert.equal(connections(), 0);
  });

  for (const host of [
    '127.0.0.1',
    '2130706433',
    '0x7f.1',
    '0177.0.0.1',
    '[::ffff:127.0.0.1]',
    '[::1]',
    '0',
  ]) {
    it(`is rejected without resolution when the host is an address: ${host}`, async (t) => {
      const { port, connections } = await receiver(t);
      const { resolve, asked } = names(['8.8.8.8']);
      const hook = webhook({ allowPrivate: false, resolve });
      await assert.rejects(hook(doneJob(), `http://${host}:${port}/`), refused);
      assert.deepEqual([asked(), connections()], [0, 0]);
    });
  }

  it('is rejected with a user and a password, also where private addresses are allowed', async (t) => {
    const { port, connections } = await receiver(t);
    await assert.rejects(webhook()(doneJob(), `http://user:pass@127.0.0.1:${port}/`), refused);
    assert.equal(connections(), 0);
  });

  it('is safe from DNS rebinding: its name is resolved once', async (t) => {
    const { port, connections } = await receiver(t);
    const { resolve, asked } = names(['8.8.8.8'], ['127.0.0.1']);
    const connected: string[] = [];
    const hook = webhook({ allowPrivate: false, resolve });
    t.mock.method(
      (await import('node:net')).Socket.prototype,
      'connect',
      function (this: { destroy(error: Error): void }, ...args: unknown[]) {
        connected.push(JSON.stringify(args));
        const [options] = args.flat() as { lookup(...all: unknown[]): void; host: string }[];
        // What the socket does first: it asks the lookup that it was given, and connects to the answer.
        options?.lookup(options.host, { all: true }, (_error: unknown, addresses: LookupAddress[]) => {
          connected.push(...addresses.map(({ address }) => address));
          this.destroy(new Error('no network here'));
        });
        return this;
      },
    );
    await assert.rejects(hook(doneJob(), `http://hooks.test:${port}/`), DeliveryError);
    assert.deepEqual([asked(), connected.at(-1), connections()], [1, '8.8.8.8', 0]);
  });
});
