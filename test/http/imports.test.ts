/** `POST /api/imports`. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { v7 } from 'uuid';
import { importCounts } from '../../src/http/schemas/imports.ts';
import { type ChatServer, databases, problemOf, shaped, startChat } from '../support/chat-server.ts';

const AT = '2026-03-21T08:30:00.000Z';
const NDJSON = 'application/x-ndjson';

interface Line {
  readonly conversation_id: string;
  readonly messages: readonly { readonly id: string }[];
}

/** A conversation with a question and a reply. */
function conversation(over: object = {}): Line {
  const messages = [
    { id: v7(), role: 'user', content: 'q', timestamp: AT, status: 'complete' },
    { id: v7(), role: 'assistant', content: 'a', timestamp: AT, status: 'complete', model: 'm' },
  ];
  return { conversation_id: randomUUID(), ...{ created_at: AT, last_active: AT, messages }, ...over };
}

/** The one with other members in its reply. */
function withReply(over: object): Line {
  const line = conversation();
  const [question, reply] = line.messages;
  return { ...line, messages: [question, { ...reply, ...over }] } as Line;
}

/** Questions of this length. */
function others(count: number, length: number): object[] {
  const question = { role: 'user', content: 'x'.repeat(length), timestamp: AT, status: 'complete' };
  return Array.from({ length: count }, () => ({ id: v7(), ...question }));
}

for (const place of databases()) {
  describe(`imports, on ${place.name},`, () => {
    let chat: ChatServer;
    before(async () => {
      chat = await startChat({
        ...(await place.create()),
        ...{ IMPORT_MAX_BYTES: '1mb', CONVERSATION_TTL_HOURS: '0' },
      });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });

    async function post(body: string | Buffer, query = '', headers: Record<string, string> = {}) {
      const response = await fetch(`${chat.url}/api/imports${query}`, {
        method: 'POST',
        headers: { 'content-type': NDJSON, ...headers },
        body: Buffer.from(body),
      });
      return {
        status: response.status,
        headers: Object.fromEntries(response.headers),
        text: await response.text(),
      };
    }
    const counts = async (...lines: (object | string)[]) => {
      const texts = lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line)));
      return shaped(importCounts, await post(texts.join('\n')));
    };
    const exported = async (id: string) => {
      const { text } = await chat.call('GET', '/api/conversations/export-all?format=ndjson');
      return text.split('\n').find((line) => line.includes(id));
    };

    it('import what a line says, and skip it the second time', async () => {
      const line = conversation();
      const added = { imported: 1, replaced: 0, skipped: 0, failed: 0, expired: 0, messages: 2, errors: [] };
      assert.deepEqual(await counts(line), added);
      assert.deepEqual(await counts(line), { ...added, imported: 0, skipped: 1, messages: 0 });
      assert.deepEqual(JSON.parse((await exported(line.conversation_id)) ?? ''), {
        ...line,
        expires_at: null,
      });
      const rows = await chat.rows(line.conversation_id);
      assert.deepEqual(
        rows.map(({ reply_to }) => reply_to),
        [null, line.messages[0]?.id],
      );
    });

    it('import system messages, which reply to nothing', async () => {
      const [question, reply] = conversation().messages;
      const [next, end] = conversation().messages;
      const system = { id: v7(), role: 'system', content: 's', timestamp: AT, status: 'complete' };
      const messages = [question, reply, system, next, { ...system, id: v7() }, end];
      const line = conversation({ messages });
      assert.equal((await counts(line)).imported, 1);
      const replyTo = (await chat.rows(line.conversation_id)).map(({ reply_to }) => reply_to);
      assert.deepEqual(replyTo, [null, question?.id, null, null, null, next?.id]);
      assert.deepEqual(JSON.parse((await exported(line.conversation_id)) ?? '').messages, messages);
    });

    it('replace and pin where the query says so', async () => {
      const line = conversation();
      await counts(line);
      const other = { ...line, messages: line.messages.slice(0, 1), title: 'new' };
      const answer = shaped(importCounts, await post(JSON.stringify(other), '?replace=true&pin=true'));
      assert.deepEqual([answer.replaced, answer.messages], [1, 1]);
      const { messages, title, pinned } = await chat.read(line.conversation_id);
      assert.deepEqual([messages.length, title, pinned], [1, 'new', true]);
    });

    it('use the id of a deleted conversation again', async () => {
      const line = conversation();
      await counts(line);
      await chat.call('DELETE', `/api/conversations/${line.conversation_id}`);
      assert.equal((await counts(line)).imported, 1);
      assert.equal((await chat.read(line.conversation_id)).messages.length, 2);
    });

    it('continue after lines that fail, and report each with its number', async () => {
      const known = conversation();
      const lone = '{"conversation_id":"\\ud800"}';
      const proto = JSON.stringify(conversation()).replace(
        '"messages"',
        '"metadata":{"__proto__":"x"},"messages"',
      );
      const taken = withReply({ id: known.messages[1]?.id });
      const twice = conversation();
      const [message] = twice.messages;
      const bad: [line: string | object, message: RegExp][] = [
        ['{"a":', /^is not JSON$/],
        ['null', /^is not a conversation/],
        ['[]', /^is not a conversation/],
        ['{"mapping":{},"title":"of another program"}', /^is not a conversation/],
        [lone, /^is not a conversation/],
        [{ ...conversation(), conversation_id: 'x' }, /^conversation_id: must be a UUID$/],
        [{ ...conversation(), created_at: '2026-02-30T00:00:00Z' }, /^created_at: /],
        [{ ...conversation(), last_active: '0999-01-01T00:00:00Z' }, /^last_active: /],
        [{ ...conversation(), pinned: 'yes' }, /^pinned: must be true or false$/],
        [{ ...conversation(), title: 'x'.repeat(201) }, /^title: /],
        [{ ...conversation(), parameters: { temperature: 9 } }, /^parameters.temperature: /],
        [proto, /^metadata/],
        [withReply({ content: '\ud800' }), /^messages\.1\.content: must not contain a lone surrogate$/],
        [withReply({ content: 7 }), /^messages\.1\.content: must be text$/],
        [withReply({ role: 'developer' }), /^messages\.1\.role: /],
        [withReply({ status: 'gone' }), /^messages\.1\.status: /],
        [withReply({ timestamp: 'now' }), /^messages\.1\.timestamp: /],
        [withReply({ tool_calls: {} }), /^messages\.1\.tool_calls: /],
        [withReply({ feedback: { rating: 'ok' } }), /^messages\.1\.feedback\.rating: /],
        [{ ...conversation(), messages: [null] }, /^messages\.0\./],
        [taken, /exists in another conversation$/],
        [{ ...twice, messages: [message, message] }, /occurs twice$/],
        [{ ...twice, messages: [message, ...others(150, 10), message] }, /occurs twice$/],
        [{ ...twice, messages: [message, ...others(150, 3000), message] }, /occurs twice$/],
      ];
      const result = await counts(known, '', ...bad.map(([line]) => line), conversation());
      assert.deepEqual([result.imported, result.failed], [2, bad.length]);
      for (const [at, [, pattern]] of bad.entries()) {
        const error = result.errors[at];
        assert.equal(error?.line, at + 3);
        assert.match(error?.message ?? '', pattern);
      }
    });

    it('write nothing of a line that fails, also of a long one', async () => {
      const long = conversation();
      const padding = others(400, 1000);
      const line = { ...long, messages: [...padding, { ...long.messages[1], role: 'nobody' }] };
      const before = await chat.countRows();
      const result = await counts(
        line,
        JSON.stringify({ ...line, conversation_id: randomUUID() }).slice(0, -200),
      );
      assert.deepEqual([result.imported, result.failed], [0, 2]);
      assert.match(result.errors[0]?.message ?? '', /^messages\.400\.role: /);
      assert.equal(result.errors[1]?.message, 'is not JSON');
      assert.deepEqual(await chat.countRows(), before);
      assert.equal((await counts({ ...line, messages: padding })).messages, 400);
    });

    it('import a file that is cut anywhere up to the cut', async () => {
      const text = [conversation(), conversation()].map((line) => `${JSON.stringify(line)}\n`).join('');
      for (let end = 1; end < text.length; end += 97) {
        const cut = text.slice(0, end);
        const { failed, imported, skipped } = shaped(importCounts, await post(cut));
        const whole = cut.split('\n').length - 1;
        assert.deepEqual([imported + skipped, failed], [whole, cut.endsWith('\n') ? 0 : 1], `${end}`);
      }
    });

    it('take gzip, and nothing of a body that is damaged, too long or of another type', async () => {
      const line = JSON.stringify(conversation());
      const gzip = { 'content-encoding': 'gzip' };
      assert.equal(shaped(importCounts, await post(gzipSync(line), '', gzip)).imported, 1);
      const fresh = gzipSync(`${JSON.stringify(conversation())}\n`.repeat(3));
      const before = await chat.countRows();
      problemOf(await post(line, '', gzip), 400, 'malformed_request');
      problemOf(await post(fresh.subarray(0, -20), '', gzip), 400, 'malformed_request');
      const long = `${JSON.stringify(conversation())}\n${'x'.repeat(1024 * 1024)}`;
      problemOf(await post(gzipSync(long), '', gzip), 413, 'body_too_large');
      problemOf(await post(long), 413, 'body_too_large');
      problemOf(await post(line, '', { 'content-type': 'application/json' }), 415, 'unsupported_media_type');
      problemOf(await post(line, '?replace=maybe'), 400, 'validation');
      assert.deepEqual(await chat.countRows(), before);
    });

    it('do not wait for slow senders, whose bodies have a limit together', async () => {
      const start = `POST /api/imports HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${NDJSON}\r\n`;
      const sockets = await Promise.all(
        [1, 2, 3].map(async () => {
          const socket = connect(Number(new URL(chat.url).port), '127.0.0.1');
          socket.write(`${start}Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n`);
          const [said] = await once(socket, 'data');
          assert.match(String(said), /^HTTP\/1\.1 100 /);
          return socket;
        }),
      );
      try {
        assert.equal((await counts(conversation())).imported, 1);
        for (const socket of sockets) socket.write('x'.repeat(800_000));
        const [said] = await Promise.race(sockets.map((socket) => once(socket, 'data')));
        assert.match(String(said), /^HTTP\/1\.1 503 /);
      } finally {
        for (const socket of sockets) socket.destroy();
      }
    });

    it('import each conversation once when two are the same in one body', async () => {
      const line = conversation();
      const result = await counts(line, line, line);
      assert.deepEqual([result.imported, result.skipped], [1, 2]);
    });
  });
}
