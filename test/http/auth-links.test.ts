/** Signed links grant access to one file until they expire, and to nothing else. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { databases, problemOf, startChat, until } from '../support/chat-server.ts';
import { download } from '../support/export-jobs.ts';
import {
  bearer,
  bodyOf,
  essence,
  type Person,
  type ProtectedDatabase,
  type ProtectedServer,
  protectedDatabase,
} from '../support/keys.ts';

const SECOND = 1000;
const link = (id: string) => `/api/exports/${id}/link`;
const file = (id: string) => `/api/exports/${id}/file`;

async function exported(person: Person): Promise<string> {
  const { id } = bodyOf(await person.call('POST', '/api/exports', { format: 'ndjson' }), 202);
  await until('the export', async () => {
    return bodyOf(await person.call('GET', `/api/exports/${id}`)).status === 'done';
  });
  return id;
}

describe('a signed link', () => {
  const shift = { ms: 0 };
  let where: ProtectedDatabase;
  let chat: ProtectedServer;
  let alice: Person;
  let id: string;
  let text: string;
  before(async () => {
    const [place] = databases();
    assert(place);
    where = await protectedDatabase(place);
    chat = await where.start({}, { clock: { now: () => Date.now() + shift.ms } });
    alice = await chat.person('alice');
    bodyOf(await alice.call('POST', '/api/chat', { message: 'exported' }));
    id = await exported(alice);
    text = (await alice.call('GET', file(id))).text;
    assert.match(text, /exported/);
  });
  after(async () => {
    await chat.stop();
    await where.remove();
  });
  const made = async (expires_in = 60, of = id): Promise<{ url: string; expires_at: string }> =>
    bodyOf(await alice.call('POST', link(of), { expires_in }));
  const refused = async (method: string, url: string) => {
    const answer = await chat.call(method, url);
    problemOf(answer, 403, 'link_invalid');
    return essence(answer);
  };

  it('serves the file without a key, to GET, HEAD and Range, repeatedly', async () => {
    const { url, expires_at } = await made();
    const left = Date.parse(expires_at) - Date.now();
    assert(left > 58 * SECOND && left <= 60 * SECOND, expires_at);
    assert.match(expires_at, /:\d\d\.000Z$/);
    assert.match(url, new RegExp(`^${file(id)}\\?expires=\\d{10}&signature=[\\w-]{43}$`));
    for (let n = 0; n < 3; n += 1) {
      const whole = await chat.call('GET', url);
      assert.deepEqual([whole.status, whole.text], [200, text]);
    }
    const head = await chat.call('HEAD', url);
    assert.deepEqual([head.status, head.text], [200, '']);
    assert.equal(Number(head.headers['content-length']), Buffer.byteLength(text));
    const part = await download(`${chat.url}${url}`, { range: 'bytes=2-11' });
    assert.deepEqual([part.status, part.bytes.toString()], [206, text.slice(2, 12)]);
    const rest = await download(`${chat.url}${url}`, {
      range: 'bytes=12-',
      'if-range': String(part.headers.etag),
    });
    assert.deepEqual([rest.status, rest.bytes.toString()], [206, text.slice(12)]);
  });

  it('is rejected in the same way, whatever part was changed', async () => {
    const { url } = await made();
    const other = await exported(alice);
    const [path = '', query = ''] = url.split('?');
    const expires = Number(new URLSearchParams(query).get('expires'));
    const signature = String(new URLSearchParams(query).get('signature'));
    const one = await made(60, other);
    const forged: string[] = [
      ...[...signature].map(
        (letter, n) => signature.slice(0, n) + (letter === 'A' ? 'B' : 'A') + signature.slice(n + 1),
      ),
      '',
      signature.slice(1),
      signature.slice(0, -1),
      `${signature}A`,
      `${signature}=`,
      signature.toLowerCase(),
      'A'.repeat(43),
      'A'.repeat(8000),
      '%00',
      '%E4%BD%A0%E5%A5%BD'.repeat(9),
      "'%20OR%201=1%20--",
      String(new URLSearchParams(one.url.split('?')[1]).get('signature')),
    ].map((text) => `${path}?expires=${expires}&signature=${text}`);
    const times = [
      String(expires + 1),
      String(expires - 1),
      `0${expires}`,
      `%2B${expires}`,
      `${expires}.0`,
      `${expires}%20`,
      `${expires}e0`,
      '-1',
      '0',
      '',
      '9'.repeat(12),
      '9'.repeat(400),
      'NaN',
      'Infinity',
      '%EF%BC%91',
    ].map((time) => `${path}?expires=${time}&signature=${signature}`);
    const others = [
      `${path}?signature=${signature}`,
      `${url}&x=1`,
      `${url}&download=`,
      `${url}&format=csv`,
      `${file(other)}?${query}`,
      `${file(crypto.randomUUID())}?${query}`,
      `${file(id.toUpperCase())}?${query}`,
      `${file('none')}?${query}`,
    ];
    const answers = [];
    for (const changed of [...forged, ...times, ...others]) {
      answers.push(await refused('GET', changed));
      const head = await chat.call('HEAD', changed);
      assert.deepEqual([head.status, head.text], [403, ''], changed);
    }
    for (const answer of answers) assert.deepEqual(answer, answers[0]);
    assert.equal((await chat.call('GET', url)).status, 200, 'the right one is as good as ever');
    // The order of the parameters says nothing, so it is not signed.
    assert.equal((await chat.call('GET', `${path}?signature=${signature}&expires=${expires}`)).status, 200);
  });

  it('must have each parameter once', async () => {
    const { url } = await made();
    const [path = '', query = ''] = url.split('?');
    for (const twice of [`${url}&${query}`, `${url}&signature=x`, `${path}?expires=1&${query}`]) {
      problemOf(await chat.call('GET', twice), 400, 'validation');
    }
  });

  it('opens nothing but the file: no other method, and no other route', async () => {
    const { url } = await made();
    const query = url.slice(url.indexOf('?'));
    for (const [method, path] of [
      ['DELETE', `/api/exports/${id}`],
      ['GET', `/api/exports/${id}`],
      ['GET', `/api/exports/${id}/manifest`],
      ['GET', `/api/exports/${id}/events`],
      ['POST', link(id)],
      ['GET', '/api/exports'],
      ['GET', '/api/conversations'],
      ['GET', '/api/keys'],
    ] as const) {
      problemOf(
        await chat.call(method, `${path}${query}`, method === 'POST' ? {} : undefined),
        401,
        'unauthorized',
      );
    }
    for (const method of ['DELETE', 'POST', 'PUT', 'PATCH']) {
      problemOf(await chat.call(method, url), 405, 'method_not_allowed');
    }
    problemOf(await chat.call('GET', file(id)), 401, 'unauthorized');
    problemOf(await chat.call('GET', `${file(id)}?expires=9999999999`), 401, 'unauthorized');
    assert.equal((await chat.call('GET', url)).status, 200);
  });

  it('expires on time, after a second to a week', async (t) => {
    t.after(() => {
      shift.ms = 0;
    });
    const { url, expires_at } = await made(60);
    const at = async (ms: number) => {
      shift.ms = Date.parse(expires_at) - Date.now() + ms;
      return (await chat.call('GET', url)).status;
    };
    assert.deepEqual(
      [await at(-1500), await at(0), await at(SECOND), await at(86_400_000)],
      [200, 403, 403, 403],
    );
    shift.ms = 0;
    assert.equal((await chat.call('GET', url)).status, 200);
    for (const [expires_in, seconds] of [
      [1, 1],
      [604_800, 604_800],
      [undefined, 3600],
    ] as const) {
      const made = bodyOf(await alice.call('POST', link(id), { expires_in }));
      const left = Date.parse(made.expires_at) - Date.now();
      assert(left <= seconds * SECOND && left > (seconds - 2) * SECOND, `${left}`);
    }
    for (const expires_in of [0, -1, 1.5, '60', 604_801, null, 1e300, {}]) {
      problemOf(await alice.call('POST', link(id), { expires_in }), 400, 'validation');
    }
  });

  it('tolerates clocks that differ by a second', async (t) => {
    t.after(() => {
      shift.ms = 0;
    });
    shift.ms = SECOND;
    const ahead = await made(3);
    shift.ms = 0;
    const behind = await made(3);
    assert.equal((await chat.call('GET', ahead.url)).status, 200, 'made by a clock that is ahead');
    shift.ms = SECOND;
    assert.equal((await chat.call('GET', behind.url)).status, 200, 'read by a clock that is ahead');
  });

  it('is created only for existing, finished exports of the caller', async (t) => {
    const opened = Promise.withResolvers<void>();
    const source = chat.server.database.exports;
    const read = source.read.bind(source);
    t.mock.method(source, 'read', async function* (...given: Parameters<typeof read>) {
      await opened.promise;
      yield* read(...given);
    });
    t.after(() => opened.resolve());
    const waiting = bodyOf(await alice.call('POST', '/api/exports', {}), 202).id;
    problemOf(await alice.call('POST', link(waiting), {}), 409, 'export_not_ready');
    const bob = await chat.person('bob');
    const admin = await chat.person('ops', ['admin']);
    const unknown = essence(await bob.call('POST', link(crypto.randomUUID()), {}));
    for (const one of [id, waiting]) {
      const foreign = await bob.call('POST', link(one), {});
      problemOf(foreign, 404, 'export_not_found');
      assert.deepEqual(essence(foreign), unknown);
    }
    problemOf(await alice.call('POST', link('none'), {}), 400, 'validation');
    const { url } = bodyOf(await admin.call('POST', link(id), {}));
    assert.equal((await chat.call('GET', url)).text, text);
    bodyOf(await alice.call('DELETE', `/api/exports/${waiting}`));
  });

  it('is 404 when its export was removed', async () => {
    const gone = await exported(alice);
    const { url } = await made(60, gone);
    bodyOf(await alice.call('DELETE', `/api/exports/${gone}`));
    problemOf(await chat.call('GET', url), 404, 'export_not_found');
  });

  it('is logged when it is used, without its signature', async () => {
    const { url } = await made();
    const seen = chat.server.lines.length;
    await chat.call('GET', url);
    const path = file(id);
    const used = await until('the note', () =>
      chat.server.lines.slice(seen).find((line) => line.audit === true && line.path === path),
    );
    assert.deepEqual(
      [used.method, used.status, used.subject, used.key_id, used.owner],
      ['GET', 200, 'address 127.0.0.1', undefined, undefined],
    );
    const said = JSON.stringify(chat.server.lines);
    assert.doesNotMatch(said, /signature=|[?&]expires=/);
    assert(!said.includes(String(new URLSearchParams(url.split('?')[1]).get('signature'))));
  });
});

describe('the secret of signed links', () => {
  it('may change: links signed with the previous one are valid while it is in the list', async (t) => {
    const [place] = databases();
    assert(place);
    const where = await protectedDatabase(place);
    t.after(() => where.remove());
    const [old, young] = ['o'.repeat(32), 'y'.repeat(32)];
    const urls: string[] = [];
    let id: string | undefined;
    for (const [LINK_SECRET, good] of [
      [old, [200]],
      [`${young},${old}`, [200, 200]],
      [young, [403, 200, 200]],
      [`${old},${young}`, [200, 200, 200, 200]],
    ] as const) {
      const chat = await where.start({ LINK_SECRET });
      try {
        const root = chat.as(where.root);
        id ??= await exported(root);
        urls.push(bodyOf(await root.call('POST', link(id), { expires_in: 600 })).url);
        const answers = [];
        for (const url of urls) answers.push((await chat.call('GET', url)).status);
        assert.deepEqual(answers, good, LINK_SECRET);
        assert(!JSON.stringify(chat.server.lines).includes(old));
      } finally {
        await chat.stop();
      }
    }
  });

  it('is shared by all servers on a database, and by no others', async (t) => {
    const place = databases().at(-1);
    const [elsewhere] = databases();
    assert(place && elsewhere);
    const where = await protectedDatabase(place);
    const stranger = await protectedDatabase(elsewhere);
    const servers = [await where.start(), await where.start(), await stranger.start()] as const;
    t.after(async () => {
      for (const server of servers) await server.stop();
      await where.remove();
      await stranger.remove();
    });
    const [a, b, c] = servers;
    const id = await exported(a.root);
    const { url } = bodyOf(await a.root.call('POST', link(id), {}));
    assert.equal((await b.call('GET', url)).status, 200);
    problemOf(await c.call('GET', url), 403, 'link_invalid');
  });

  it('signs without authentication too', async (t) => {
    const chat = await startChat();
    t.after(() => chat.stop());
    const id = await until('an export', async () => {
      const { exports: jobs } = bodyOf(await chat.call('GET', '/api/exports'));
      if (jobs.length === 0) await chat.call('POST', '/api/exports', {});
      return jobs[0]?.status === 'done' && jobs[0].id;
    });
    const { url } = bodyOf(await chat.call('POST', link(id), {}, bearer('whatever')));
    assert.equal((await chat.call('GET', url)).status, 200);
    problemOf(await chat.call('GET', `${url}A`), 403, 'link_invalid');
    assert.equal((await chat.call('GET', file(id))).status, 200);
  });
});
