import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { describe, it, type TestContext } from 'node:test';
import { SMTPServer, type SMTPServerOptions } from 'smtp-server';
import { DeliveryError } from '../../src/notify/delivery-error.ts';
import { createMailer } from '../../src/notify/mail.ts';
import { doneJob, manifest, queuedJob } from './jobs.ts';

interface Received {
  readonly from: string;
  readonly to: readonly string[];
  readonly user: string | undefined;
  readonly mail: string;
}

/** A mail server on loopback, without TLS. */
async function server(t: TestContext, options: SMTPServerOptions = {}) {
  const received: Received[] = [];
  const smtp = new SMTPServer({
    authOptional: true,
    allowInsecureAuth: true,
    disabledCommands: ['STARTTLS'],
    logger: false,
    onData(stream, session, done) {
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', () => {
        const { mailFrom, rcptTo } = session.envelope;
        const to = rcptTo.map(({ address }) => address);
        const from = mailFrom ? mailFrom.address : '';
        received.push({ from, to, user: session.user, mail: Buffer.concat(chunks).toString() });
        done();
      });
    },
    ...options,
  });
  smtp.on('error', () => {});
  const { port } = await new Promise<{ port: number }>((resolve) => {
    const listening = smtp.listen(0, '127.0.0.1', () => resolve(listening.address() as { port: number }));
  });
  t.after(() => new Promise<void>((resolve) => void smtp.close(resolve)));
  return { port, url: `smtp://127.0.0.1:${port}`, received };
}

/** The text of a mail, with its soft line breaks and codes undone. */
function body(mail: string): string {
  return mail
    .slice(mail.indexOf('\r\n\r\n') + 4)
    .replace(/=\r\n/g, '')
    .replaceAll('\r\n', '\n');
}

describe('a mail', () => {
  it('reports the size and the place of a finished export, and none of its content', async (t) => {
    const { url, received } = await server(t);
    const job = doneJob();
    await createMailer({ smtpUrl: url }).send(job, 'ann@example.com');
    const [{ from, to, mail } = { from: '', to: [], mail: '' }] = received;
    assert.deepEqual([from, to], [`chat-api-server@${hostname()}`, ['ann@example.com']]);
    assert.match(mail, /^Subject: Export done: 34,567 messages\r$/m);
    assert.match(mail, /^Auto-Submitted: auto-generated\r$/m);
    assert.match(mail, /^Content-Type: text\/plain; charset=utf-8\r$/m);
    assert.equal(
      body(mail).trimEnd(),
      `The export you requested is done.

Format: csv, gzip
Conversations: 12
Messages: 34,567
Size: 1,234,567 bytes
SHA-256: ${manifest.sha256}

File: GET /api/exports/${job.id}/file
Details: GET /api/exports/${job.id}`,
    );
  });

  it('reports why an export failed', async (t) => {
    const { url, received } = await server(t);
    const job = queuedJob({ status: 'failed', error: 'The disk is full: free some space' });
    await createMailer({ smtpUrl: url, from: 'Exports <exports@example.org>' }).send(job, 'ann@example.com');
    const [{ from, mail } = { from: '', mail: '' }] = received;
    assert.equal(from, 'exports@example.org');
    assert.match(mail, /^From: Exports <exports@example.org>\r$/m);
    assert.match(mail, /^Subject: Export failed\r$/m);
    assert.match(body(mail), /The disk is full: free some space/);
    assert.match(body(mail), new RegExp(`/api/exports/${job.id}`));
  });

  it('has a stable Message-ID', async (t) => {
    const { url, received } = await server(t);
    const mailer = createMailer({ smtpUrl: url });
    const job = doneJob();
    await mailer.send(job, 'ann@example.com');
    await mailer.send(job, 'ann@example.com');
    const ids = received.map(({ mail }) => /^Message-ID: (.*)\r$/m.exec(mail)?.[1]);
    assert.deepEqual(ids, Array(2).fill(`<export-${job.id}@chat-api-server>`));
  });

  it('is sent to one recipient, even if the address looks like a list', async (t) => {
    const { url, received } = await server(t);
    const sent = createMailer({ smtpUrl: url }).send(doneJob(), 'ann@example.com, bob@example.com');
    await sent.catch(() => {});
    assert.ok(received.every(({ to }) => to.length === 1 && to[0] !== 'bob@example.com'));
  });

  it('is sent with the user and the password of the URL', async (t) => {
    const { port, received } = await server(t, {
      authOptional: false,
      onAuth({ username, password }, _session, done) {
        if (username === 'user@x' && password === 'p:w') done(null, { user: 'ann' });
        else done(Object.assign(new Error('no'), { responseCode: 535 }));
      },
    });
    const url = (password: string) => `smtp://user%40x:${password}@127.0.0.1:${port}`;
    await createMailer({ smtpUrl: url('p%3Aw') }).send(doneJob(), 'ann@example.com');
    assert.equal(received[0]?.user, 'ann');
    await assert.rejects(
      createMailer({ smtpUrl: url('wrong') }).send(doneJob(), 'ann@example.com'),
      (error) => {
        assert(error instanceof DeliveryError && !error.permanent);
        assert.match(error.message, /EAUTH/);
        return true;
      },
    );
  });

  for (const [responseCode, permanent] of [
    [550, true],
    [450, false],
  ] as const) {
    it(`fails ${permanent ? 'permanently' : 'temporarily'} when its address is rejected with ${responseCode}`, async (t) => {
      const { url } = await server(t, {
        onRcptTo({ address }, _session, done) {
          done(Object.assign(new Error(`no ${address} here`), { responseCode }));
        },
      });
      await assert.rejects(createMailer({ smtpUrl: url }).send(doneJob(), 'ann@example.com'), (error) => {
        assert(error instanceof DeliveryError);
        assert.equal(error.permanent, permanent);
        assert.doesNotMatch(error.message, /ann/);
        return true;
      });
    });
  }

  it('fails when the mail server is silent or not reachable', async (t) => {
    const { url } = await server(t, { onConnect: () => {} });
    const mailer = createMailer({ smtpUrl: url, timeoutMs: 200 });
    const began = performance.now();
    await assert.rejects(mailer.send(doneJob(), 'ann@example.com'), /ETIMEDOUT/);
    assert.ok(performance.now() - began < 2000);
    const unreachable = createMailer({ smtpUrl: 'smtp://127.0.0.1:1' });
    await assert.rejects(unreachable.send(doneJob(), 'ann@example.com'), (error) => {
      assert(error instanceof DeliveryError && !error.permanent);
      return true;
    });
  });

  it('uses TLS for smtps:// and rejects an unverified certificate', async (t) => {
    const { port, received } = await server(t, { secure: true });
    await assert.rejects(
      createMailer({ smtpUrl: `smtps://127.0.0.1:${port}` }).send(doneJob(), 'ann@example.com'),
      DeliveryError,
    );
    assert.equal(received.length, 0);
    const smtpUrl = `smtps://127.0.0.1:${port}?tls.rejectUnauthorized=false`;
    await createMailer({ smtpUrl }).send(doneJob(), 'ann@example.com');
    assert.equal(received.length, 1);
  });
});
