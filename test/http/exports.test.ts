import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type Agent, type IncomingMessage, request } from 'node:http';
import { text as readText } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from 'node:zlib';
import { exportFile, exportPreview } from '../../src/http/schemas/exports.ts';
import { type ChatServer, databases, problemOf, startChat, until } from '../support/chat-server.ts';
import { readCsv, readStrictCsv } from '../support/csv.ts';
import {
  csvRows,
  inOrder,
  type StoredConversation,
  shown,
  store,
  stored,
  storedConversation,
} from '../support/export-data.ts';

const NOW = Date.UTC(2026, 10, 22, 9, 0, 0);
const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const ALL = '/api/conversations/export-all';
const HEADER = 'conversation_id,created_at,last_active,message_id,role,content,timestamp,status'.split(',');

function lineFeeds(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) count += 1;
  return count;
}

const NASTY = [
  'plain',
  'comma, "quotes", \'single\'',
  'line\nbreak\r\nand\rreturn',
  '=SUM(A1:A2)',
  '+1',
  '-1',
  '@cmd',
  '\ttab',
  "'already quoted",
  '你好，世界 😀👨‍👩‍👧',
  ' spaces around ',
  '"',
  '\n',
  'x'.repeat(40_000),
  '',
];

function samples(): StoredConversation[] {
  return [
    storedConversation(NOW - 3 * HOUR, NASTY, { status: 'incomplete' }),
    storedConversation(NOW - 2 * HOUR, ['a question', 'an answer']),
    storedConversation(NOW - 2 * HOUR, ['only a question']),
    storedConversation(NOW - HOUR, []),
  ];
}

function raw(url: string, path: string, headers: Record<string, string> = {}, method = 'GET', agent?: Agent) {
  const outgoing = request(`${url}${path}`, { method, headers, agent: agent ?? false });
  outgoing.end();
  return once(outgoing, 'response').then(([response]) => response as IncomingMessage);
}

/** As `GET` of each conversation shows it, without paging. */
function shownConversations(conversations: readonly StoredConversation[]) {
  return inOrder(conversations).map(({ id, created_at, last_active, messages }) => ({
    conversation_id: id,
    created_at: shown(created_at),
    last_active: shown(last_active),
    expires_at: new Date(Date.parse(shown(last_active)) + DAY).toISOString(),
    messages: messages.map(({ uid, timestamp, ...rest }) => ({
      id: uid,
      ...rest,
      timestamp: shown(timestamp),
    })),
  }));
}

for (const place of databases()) {
  describe(`exports, on ${place.name},`, () => {
    let chat: ChatServer;
    const data = samples();
    const expired = storedConversation(NOW - 3 * DAY, ['long ago']);
    before(async () => {
      const env = { ...(await place.create()), DB_POOL_MAX: '3', DB_ACQUIRE_TIMEOUT_MS: '2000' };
      chat = await startChat(env, { clock: { now: () => NOW } });
      // Expired only afterwards: the purge at the start of the server must not take it away while it is put in.
      await store(chat.server.database, [...data, { ...expired, last_active: stored(NOW) }]);
      const { id, last_active } = expired;
      await chat.server.database.knex('conversations').where({ id }).update({ last_active });
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const get = async (query: string, path = ALL) => {
      const answer = await chat.call('GET', `${path}?${query}`);
      assert.equal(answer.status, 200, answer.text);
      return answer;
    };
    const only = async (query: string) =>
      exportFile.parse(JSON.parse((await get(query)).text)).conversations.map((one) => one.conversation_id);

    it('as raw CSV have the stored text, byte for byte', async () => {
      const { headers, text } = await get('format=csv&csv=raw');
      assert.equal(headers['content-type'], 'text/csv; charset=utf-8');
      assert.equal(headers['content-disposition'], 'attachment; filename="conversations-2026-11-22.csv"');
      assert.equal(headers.vary?.includes('Accept-Encoding'), true);
      assert.equal(headers['cache-control'], 'no-store');
      assert.deepEqual(readCsv(text), [HEADER, ...csvRows(data)]);
    });

    it('as CSV begin with a byte order mark and escape formulas reversibly', async () => {
      const bytes = Buffer.concat(await (await raw(chat.url, `${ALL}?format=csv`)).toArray());
      assert.equal(bytes.subarray(0, 3).toString('hex'), 'efbbbf');
      const rows = readCsv(bytes.subarray(3).toString());
      for (const cell of rows.flat()) assert.doesNotMatch(cell, /^[=+\-@\t\r\n]/);
      assert.deepEqual(
        rows.map((row) => row.map((cell) => cell.replace(/^'/, ''))),
        [HEADER, ...csvRows(data)],
      );
    });

    it('as JSON have metadata, conversations as GET shows them, and a summary', async () => {
      const { headers, text } = await get('');
      assert.equal(headers['content-type'], 'application/json');
      assert.match(headers['content-disposition'] ?? '', /conversations-2026-11-22\.json"$/);
      const body: unknown = JSON.parse(text);
      assert.deepEqual(exportFile.parse(body), body);
      assert.deepEqual(body, {
        metadata: {
          format: 'json',
          filter: { start_date: null, end_date: null, role: null, status: null },
          exported_at: new Date(NOW).toISOString(),
        },
        conversations: shownConversations(data),
        summary: { conversations: 4, messages: NASTY.length + 3 },
      });
      const [first] = data;
      const { conversation_id, created_at, last_active, expires_at, messages } = await chat.read(
        first?.id ?? '',
      );
      // Members that are not set are left out.
      assert.deepEqual(shownConversations(data)[0], {
        conversation_id,
        created_at,
        last_active,
        expires_at,
        messages,
      });
    });

    it('as NDJSON have one conversation a line', async () => {
      const { headers, text } = await get('format=ndjson');
      assert.equal(headers['content-type'], 'application/x-ndjson');
      assert.equal(text.endsWith('\n'), true);
      const lines = text.trimEnd().split('\n');
      assert.deepEqual(
        lines.map((line) => JSON.parse(line)),
        shownConversations(data),
      );
    });

    it('of one conversation are named after it and have only it', async () => {
      for (const [index, one] of data.entries()) {
        const path = `/api/conversations/${index === 0 ? one.id.toUpperCase() : one.id}/export`;
        const csv = await get('format=csv&csv=raw', path);
        assert.equal(csv.headers['content-disposition'], `attachment; filename="conversation-${one.id}.csv"`);
        assert.deepEqual(readStrictCsv(csv.text), [HEADER, ...csvRows([one])]);
        const json = JSON.parse((await get('format=json', path)).text);
        assert.deepEqual(json.metadata.filter, { conversation_id: one.id });
        assert.deepEqual(json.conversations, shownConversations([one]));
        assert.deepEqual(JSON.parse((await get('format=ndjson', path)).text), shownConversations([one])[0]);
      }
    });

    it('of an unknown or expired conversation are the 404 of GET', async () => {
      for (const id of [crypto.randomUUID(), expired.id]) {
        for (const query of ['', '?format=csv', '?preview=3']) {
          const answer = await chat.call('GET', `/api/conversations/${id}/export${query}`);
          problemOf(answer, 404, 'conversation_not_found');
          assert.equal(answer.headers['content-disposition'], undefined);
        }
        assert.equal((await chat.call('HEAD', `/api/conversations/${id}/export`)).status, 404);
      }
      problemOf(await chat.call('GET', '/api/conversations/nobody/export'), 400, 'validation');
    });

    it('are filtered by day or instant, both ends included', async () => {
      const at = (ms: number) => new Date(ms).toISOString();
      const ids = (from: number, to: number) =>
        inOrder(data)
          .slice(from, to)
          .map(({ id }) => id);
      assert.deepEqual(await only('start_date=2026-11-22&end_date=2026-11-22'), ids(0, 4));
      assert.deepEqual(await only('start_date=2026-11-23'), []);
      assert.deepEqual(await only('end_date=2026-11-21'), []);
      assert.deepEqual(
        await only(`start_date=${at(NOW - 2 * HOUR)}&end_date=${at(NOW - 2 * HOUR)}`),
        ids(1, 3),
      );
      assert.deepEqual(await only(`start_date=${at(NOW - 2 * HOUR + 1)}`), ids(3, 4));
      assert.deepEqual(await only(`end_date=${at(NOW - 2 * HOUR - 1)}`), ids(0, 1));
      assert.deepEqual(await only('start_date=2026-11-22T15:00:00%2B08:00'), ids(1, 4));
      assert.deepEqual(await only('start_date=2026-11-22T15:00:00+08:00'), ids(1, 4));
      assert.deepEqual(await only('start_date=2026-11-22T07:00:00.0000001Z'), ids(3, 4));
      const { metadata } = JSON.parse((await get('end_date=2026-11-22&role=user')).text);
      assert.deepEqual(metadata.filter, {
        start_date: null,
        end_date: '2026-11-22T23:59:59.999Z',
        role: 'user',
        status: null,
      });
    });

    it('with role and status have only matching messages and conversations that have one', async () => {
      const matching = (match: (message: StoredConversation['messages'][number]) => boolean) =>
        csvRows(
          data
            .map((one) => ({ ...one, messages: one.messages.filter(match) }))
            .filter(({ messages }) => messages.length > 0),
        );
      const rows = async (query: string) =>
        readStrictCsv((await get(`format=csv&csv=raw&${query}`)).text).slice(1);
      assert.deepEqual(
        await rows('role=user'),
        matching(({ role }) => role === 'user'),
      );
      assert.deepEqual(
        await rows('status=incomplete'),
        matching(({ status }) => status === 'incomplete'),
      );
      assert.deepEqual(await rows('role=user&status=incomplete'), []);
      assert.deepEqual(
        await rows('role=assistant&status=complete'),
        matching(({ role, status }) => role === 'assistant' && status === 'complete'),
      );
    });

    it('of one conversation take role and status too', async () => {
      const { id, messages } = data[1] ?? assert.fail();
      const one = `/api/conversations/${id}/export`;
      const { text } = await chat.call('GET', `${one}?format=csv&csv=raw&role=assistant&status=complete`);
      assert.deepEqual(
        readStrictCsv(text)
          .slice(1)
          .map((row) => row[3]),
        messages.filter(({ role }) => role === 'assistant').map(({ uid }) => uid),
      );
      const none = JSON.parse((await chat.call('GET', `${one}?status=incomplete`)).text);
      assert.deepEqual(none.conversations, []);
      assert.deepEqual(none.metadata.filter, { conversation_id: id, status: 'incomplete' });
      const { rows } = JSON.parse((await chat.call('GET', `${one}?preview=9&role=user`)).text);
      assert.equal(rows.length, 1);
    });

    it('reject unknown parameters on every export route, and name the known ones', async () => {
      const one = `/api/conversations/${data[0]?.id}/export`;
      const job = `/api/exports/${crypto.randomUUID()}`;
      const filter = 'format, csv, summary, preview, role, status';
      for (const [method, path, known] of [
        ['GET', `${ALL}?start-date=2026-11-22`, `${filter}, start_date, end_date, rating`],
        ['HEAD', `${ALL}?Format=csv`, ''],
        ['GET', `${one}?start_date=2026-11-22`, filter],
        ['GET', '/api/exports?status=done', 'limit, cursor'],
        ['POST', '/api/exports?format=csv', 'none is allowed here'],
        ['GET', `${job}?format=csv`, 'none is allowed here'],
        ['GET', `${job}/file?Range=1`, 'none is allowed here'],
        ['GET', `${job}/manifest?x=`, 'none is allowed here'],
        ['GET', `${job}/events?last_event_id=1`, 'none is allowed here'],
        ['DELETE', `${job}?dry_run=true`, 'none is allowed here'],
      ] as const) {
        const body = method === 'POST' ? {} : undefined;
        const answer = await chat.call(method, path, body);
        assert.equal(answer.status, 400, path);
        if (method === 'HEAD') continue;
        const { errors, detail } = problemOf(answer, 400, 'validation');
        const name = /\?([^=]+)/.exec(path)?.[1];
        assert.deepEqual(
          errors?.map((error) => error.path),
          [name],
        );
        assert(detail.endsWith(known), detail);
      }
      const many = Array.from({ length: 30 }, (_, index) => `${'n'.repeat(90)}${index}=1`).join('&');
      const { errors } = problemOf(await chat.call('GET', `${ALL}?${many}`), 400, 'validation');
      assert.equal(errors?.length, 20);
      assert(errors.every(({ path }) => path.length === 64));
    });

    it('reject invalid parameters', async () => {
      for (const query of [
        'format=xml',
        'format=',
        'format=CSV',
        'csv=cooked',
        'role=developer',
        'status=done',
        'preview=0',
        'preview=1001',
        'preview=-1',
        'preview=1.5',
        'start_date=2026-02-30',
        'start_date=2026-13-01',
        'start_date=yesterday',
        'start_date=',
        'start_date=2026-11-22T08:00:00',
        'end_date=2026-11-22T25:00:00Z',
        'end_date=2026-11-22T08:00Z',
        'end_date=22.11.2026',
        'start_date=2026-11-22&end_date=2026-11-21',
        'start_date=2026-11-22T00:00:00.001Z&end_date=2026-11-22T00:00:00Z',
        'format=csv&format=json',
      ]) {
        const { errors } = problemOf(await chat.call('GET', `${ALL}?${query}`), 400, 'validation');
        assert(errors?.every(({ path }) => query.includes(path)) && errors.length > 0, query);
      }
      problemOf(await chat.call('DELETE', ALL), 405, 'method_not_allowed');
      problemOf(
        await chat.call('POST', `/api/conversations/${data[0]?.id}/export`),
        405,
        'method_not_allowed',
      );
    });

    it('are compressed as the client accepts', async () => {
      const plain = Buffer.concat(await (await raw(chat.url, `${ALL}?format=csv`)).toArray());
      const unpack: Record<string, (bytes: Buffer) => Buffer> = {
        gzip: gunzipSync,
        br: brotliDecompressSync,
        zstd: zstdDecompressSync,
      };
      for (const [accepted, encoding] of [
        ['gzip', 'gzip'],
        ['br', 'br'],
        ['zstd', 'zstd'],
        ['gzip;q=0.5, zstd', 'zstd'],
        ['gzip;q=0, br;q=0.1', 'br'],
        ['identity, gzip;q=0.5', undefined],
        ['deflate', undefined],
      ] as const) {
        const response = await raw(chat.url, `${ALL}?format=csv`, { 'accept-encoding': accepted });
        assert.equal(response.headers['content-encoding'], encoding, accepted);
        const bytes = Buffer.concat(await response.toArray());
        const unpacked = encoding === undefined ? bytes : unpack[encoding]?.(bytes);
        assert.ok(unpacked?.equals(plain), accepted);
      }
    });

    it('send their first bytes before the first page is read, compressed or not', async (t) => {
      const source = chat.server.database.exports;
      const read = source.read.bind(source);
      for (const encoding of ['identity', 'gzip', 'br', 'zstd']) {
        const gate = Promise.withResolvers<void>();
        const { mock } = t.mock.method(source, 'read', async function* (scope: Parameters<typeof read>[0]) {
          await gate.promise;
          yield* read(scope);
        });
        const response = await raw(chat.url, `${ALL}?format=csv`, { 'accept-encoding': encoding });
        const [first] = await once(response, 'data');
        if (encoding === 'identity') assert.match(String(first), /^\uFEFFconversation_id,/);
        gate.resolve();
        await response.toArray();
        assert.equal(response.complete, true);
        mock.restore();
      }
    });

    it('end in trailers if the client accepts them', async () => {
      const expected = { 'export-conversations': '4', 'export-messages': String(NASTY.length + 3) };
      for (const format of ['csv', 'ndjson']) {
        for (const encoding of ['identity', 'gzip']) {
          const headers = { te: 'trailers', 'accept-encoding': encoding };
          const response = await raw(chat.url, `${ALL}?format=${format}`, headers);
          assert.equal(response.headers.trailer, 'Export-Conversations, Export-Messages');
          await response.toArray();
          assert.deepEqual({ ...response.trailers }, expected);
        }
        const without = await raw(chat.url, `${ALL}?format=${format}`);
        await without.toArray();
        assert.deepEqual([without.headers.trailer, { ...without.trailers }], [undefined, {}]);
      }
      const json = await raw(chat.url, ALL, { te: 'trailers' });
      await json.toArray();
      assert.deepEqual([json.headers.trailer, { ...json.trailers }], [undefined, {}]);
    });

    it('answer HEAD with headers only', async () => {
      for (const path of [ALL, `/api/conversations/${data[0]?.id}/export`]) {
        const headers = { te: 'trailers', 'accept-encoding': 'gzip' };
        const [head, body] = [
          await raw(chat.url, `${path}?format=csv`, headers, 'HEAD'),
          await raw(chat.url, `${path}?format=csv`, headers),
        ];
        await body.toArray();
        assert.deepEqual([head.statusCode, await readText(head)], [200, '']);
        for (const name of [
          'content-type',
          'content-disposition',
          'content-encoding',
          'vary',
          'cache-control',
        ])
          assert.equal(head.headers[name], body.headers[name], name);
      }
      assert.equal((await chat.call('HEAD', `${ALL}?format=xml`)).status, 400);
      const [head, get] = [
        await chat.call('HEAD', `${ALL}?format=csv&preview=1`),
        await chat.call('GET', `${ALL}?format=csv&preview=1`),
      ];
      assert.deepEqual([head.status, head.text], [200, '']);
      for (const name of ['content-type', 'cache-control', 'content-disposition'])
        assert.equal(head.headers[name], get.headers[name], name);
    });

    it('can be previewed: the first rows and the counts', async () => {
      for (const format of ['json', 'csv', 'ndjson']) {
        const { text } = await get(`format=${format}&preview=3`);
        const { rows, estimate } = exportPreview.parse(JSON.parse(text));
        assert.deepEqual(
          rows.map((row) => Object.values(row)),
          csvRows(data).slice(0, 3),
        );
        assert.deepEqual(Object.keys(rows[0] ?? {}), HEADER);
        const whole = Buffer.byteLength((await get(`format=${format}`)).text);
        assert.deepEqual([estimate.conversations, estimate.messages], [4, NASTY.length + 3]);
        assert(Math.abs(estimate.bytes - whole) < whole / 5, `${format}: ${estimate.bytes} for ${whole}`);
      }
      const all = exportPreview.parse(JSON.parse((await get('preview=1000')).text));
      assert.equal(all.rows.length, csvRows(data).length);
      assert.equal(all.rows.at(-1)?.message_id, null);
      const one = await get('preview=2', `/api/conversations/${data[1]?.id}/export`);
      assert.deepEqual(exportPreview.parse(JSON.parse(one.text)).estimate.messages, 2);
      const filtered = exportPreview.parse(JSON.parse((await get('preview=9&role=assistant')).text));
      assert.deepEqual([filtered.estimate.conversations, filtered.estimate.messages], [2, 8]);
    });
  });

  describe(`a large export, on ${place.name},`, () => {
    /** Kept in memory they take 20 MB, and what is there without that 15. */
    const [CONVERSATIONS, MESSAGES] = [401, 20_000];
    let chat: ChatServer;
    /** Not kept: each collection of garbage would look through it. */
    const data = () => [
      ...Array.from({ length: CONVERSATIONS - 1 }, (_, index) =>
        storedConversation(NOW - HOUR + index, Array(40).fill(`message ${index} 今天天气很好 `.repeat(30))),
      ),
      storedConversation(NOW - HOUR + 200, Array(4000).fill('one of very many '.repeat(8))),
    ];
    before(async () => {
      const conversations = data();
      const env = { ...(await place.create()), DB_POOL_MAX: '3', DB_ACQUIRE_TIMEOUT_MS: '2000' };
      chat = await startChat(env, { clock: { now: () => NOW } });
      await store(chat.server.database, conversations);
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });
    const forget = (ids: string[]) => chat.server.database.knex('conversations').whereIn('id', ids).delete();
    const lineCount = async (response: IncomingMessage) => {
      let lines = 0;
      for await (const piece of response) lines += lineFeeds(piece);
      return lines;
    };

    it('is complete and takes little memory', async (t) => {
      setFlagsFromString('--expose_gc');
      const collect: () => void = runInNewContext('gc');
      await lineCount(await raw(chat.url, `${ALL}?format=csv`));
      collect();
      const used = () => process.memoryUsage().heapUsed + process.memoryUsage().external;
      const quiet = used();
      let most = 0;
      // All formats read the same pages.
      for (const format of place.name === 'SQLite' ? ['csv', 'json'] : ['ndjson']) {
        const began = performance.now();
        const response = await raw(chat.url, `${ALL}?format=${format}`, { te: 'trailers' });
        let bytes = 0;
        let lines = 0;
        for await (const piece of response) {
          // Every 4 MiB: a collection looks at all that the test holds.
          if (bytes >> 22 !== (bytes + piece.length) >> 22) {
            collect();
            most = Math.max(most, used() - quiet);
          }
          bytes += piece.length;
          lines += lineFeeds(piece);
        }
        t.diagnostic(
          `${format}: ${bytes} bytes, ${Math.round(performance.now() - began)} ms with collections`,
        );
        assert.equal(lines, { csv: MESSAGES + 1, ndjson: CONVERSATIONS, json: CONVERSATIONS + 2 }[format]);
        if (format !== 'json') assert.equal(response.trailers['export-messages'], String(MESSAGES));
      }
      t.diagnostic(`most: ${Math.round(most / 1e6)} MB over idle`);
      assert(most < 30e6, `${most} bytes more than before`);
    });

    it('does not block chats', async () => {
      // The head leaves when it has been fixed where the export ends: what is asked from now on is not in it.
      const since = new Date(NOW - HOUR + 300).toISOString();
      const exporting = lineCount(await raw(chat.url, `${ALL}?format=csv&start_date=${since}`));
      let ended = false;
      void exporting.then(() => {
        ended = true;
      });
      const asked: string[] = [];
      while (!ended) {
        const reply = await chat.ask({ message: `meanwhile ${asked.length}` });
        assert.equal(reply.persisted, true);
        asked.push(reply.conversation_id);
      }
      assert(asked.length > 1, `${asked.length} chats during an export`);
      assert.equal(await exporting, 100 * 40 + 1);
      await forget(asked);
    });

    it('frees everything soon when its readers disconnect', async () => {
      for (let round = 0; round < 16; round += 1) {
        const response = await raw(chat.url, `${ALL}?format=${round % 2 ? 'csv' : 'json'}`, {
          'accept-encoding': round % 3 ? 'identity' : 'gzip',
        });
        if (round % 5 !== 0) await once(response, 'data');
        response.destroy();
      }
      const left = performance.now();
      const { pool } = chat.server.database.knex.client;
      await until('free connections', () => pool.numUsed() === 0 && pool.numPendingAcquires() === 0);
      const replies = await Promise.all(
        Array.from({ length: 5 }, () => chat.ask({ message: 'still there?' })),
      );
      // A reader that is not known to have gone is given up after a minute.
      assert(performance.now() - left < 15_000, `${performance.now() - left} ms`);
      await forget(replies.map((reply) => reply.conversation_id));
      const faults = chat.server.lines.filter(({ level }) => level !== 'debug' && level !== 'info');
      assert.deepEqual(faults, [], 'a reader that leaves is no fault');
    });

    it('holds no connection while its reader is slow', async () => {
      const response = await raw(chat.url, `${ALL}?format=csv`);
      await once(response, 'data');
      response.pause();
      const { pool } = chat.server.database.knex.client;
      await until('a free pool', () => pool.numUsed() === 0);
      response.destroy();
    });

    it('breaks the connection when the database fails midway, compressed or not', async () => {
      for (const encoding of ['identity', 'gzip']) {
        const response = await raw(chat.url, `${ALL}?format=csv`, { 'accept-encoding': encoding });
        assert.equal(response.statusCode, 200);
        await once(response, 'data');
        response.pause();
        await chat.server.database.knex.destroy();
        await assert.rejects(response.toArray(), { code: 'ECONNRESET' });
        assert.equal(response.complete, false);
        chat.server.database.knex.initialize();
      }
      await chat.server.database.knex.destroy();
      problemOf(await chat.call('GET', `${ALL}?format=csv`), 503, 'database_unavailable');
    });
  });
}
