import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Request } from 'express';
import fc from 'fast-check';
import { createBodyReader } from '../../../../src/http/request/body.ts';

const LIMIT = 4096;
const IMAGE_BYTES = 64 * 1024;
const read = createBodyReader(LIMIT, IMAGE_BYTES);
const DATA = 'iVBORw0KGgo/'.repeat(400);
const URL = `data:image/png;base64,${DATA}`;

/** As much of a request as the reader uses, without an announced length. */
function requestOf(chunks: readonly Uint8Array[], headers: object = {}): Request {
  const stream = Readable.from(chunks.map((chunk) => Buffer.from(chunk)));
  const all = { 'content-type': 'application/json', ...headers };
  return Object.assign(stream, { headers: all, complete: true }) as unknown as Request;
}

const part = (url: unknown, more: object = {}) => ({ type: 'image_url', image_url: { url, ...more } });
const slashes = (text: string) => text.replaceAll('/', '\\/');
const outcome = async (body: string, headers: object = {}) =>
  read(requestOf([Buffer.from(body)], headers)).catch(({ code }) => code);

describe('a body with images', () => {
  const bodies = {
    plain: JSON.stringify({ message: [part(URL), { type: 'text', text: '大 "data:x' }] }),
    'escaped slashes': slashes(JSON.stringify({ message: [part(URL), part(URL)] })),
    'escaped letters': JSON.stringify({ message: [part(URL)] }).replaceAll('R', '\\u0052'),
    'two images and text that looks like one': JSON.stringify({
      message: [part(URL), { type: 'text', text: `"data:${'\\'.repeat(7)}"` }, part(`${URL}AAAA`)],
    }),
    'a data URL as a name': JSON.stringify({ [`data:${'x'.repeat(2000)}`]: 1, message: 'x' }),
    'short URLs': JSON.stringify({ message: [part('data:image/png;base64,AAAA'), part('data:')] }),
    'an image in capitals': JSON.stringify({ message: [part(URL.replace('data', 'DATA'))] }),
    'text that begins like one': JSON.stringify({
      message: [part(URL), { type: 'text', text: `data: ${'大\\'.repeat(300)}` }],
      system: `DATA:${'"'.repeat(600)}`,
    }),
    'text that quotes one': JSON.stringify({
      message: [{ type: 'text', text: `<img src="data:image/gif;base64,${'A'.repeat(2000)}">?` }, part(URL)],
    }),
    'no image': JSON.stringify({ message: 'x', other: ['"data:', '\\"data:', '\\'] }),
  };

  for (const [name, body] of Object.entries(bodies)) {
    it(`is the same wherever it is cut: ${name}`, async () => {
      const bytes = Buffer.from(body);
      const cuts = fc.uniqueArray(fc.integer({ min: 1, max: bytes.length - 1 }), { maxLength: 12 });
      await fc.assert(
        fc.asyncProperty(cuts, async (at) => {
          const ends = [0, ...at.sort((a, b) => a - b), bytes.length];
          const chunks = ends.slice(1).map((end, index) => bytes.subarray(ends[index], end));
          assert.deepEqual(await read(requestOf(chunks)), JSON.parse(body));
        }),
        { numRuns: 50 },
      );
      const single = Array.from(bytes, (_, index) => bytes.subarray(index, index + 1));
      assert.deepEqual(await read(requestOf(single)), JSON.parse(body), 'of single bytes');
    });
  }

  it('is the same at every cut around the start and the end of a URL', async () => {
    const { plain } = bodies;
    const bytes = Buffer.from(plain);
    const [start, end] = [plain.indexOf('"data:'), plain.indexOf('"}}')];
    for (const edge of [start, end]) {
      for (let at = edge - 2; at < edge + 10; at += 1) {
        const chunks = [bytes.subarray(0, at), bytes.subarray(at)];
        assert.deepEqual(await read(requestOf(chunks)), JSON.parse(plain), `cut at ${at - edge}`);
      }
    }
  });

  for (const [name, body, expected] of [
    ['the last of two messages', `{"message":[],"message":[${JSON.stringify(part(URL))}]}`, 'read'],
    [
      'a message that another one replaces',
      `{"message":[${JSON.stringify(part(URL))}],"message":"x"}`,
      'body_too_large',
    ],
    ['image data elsewhere', JSON.stringify({ other: URL }), 'body_too_large'],
    ['image data as the message', JSON.stringify({ message: URL }), 'body_too_large'],
    [
      'image data in a text part',
      JSON.stringify({ message: [{ type: 'text', text: URL }] }),
      'body_too_large',
    ],
    [
      'an image beside text of the limit',
      `${JSON.stringify({ message: [part(URL)] })}${' '.repeat(LIMIT - 57)}`,
      'read',
    ],
    [
      'an image beside text beyond the limit',
      `${JSON.stringify({ message: [part(URL)] })}${' '.repeat(LIMIT - 56)}`,
      'body_too_large',
    ],
    [
      'an image beside text beyond the limit that begins like one',
      JSON.stringify({ message: [part(URL), ...Array(3).fill(`data:${'x'.repeat(1500)}`)] }),
      'body_too_large',
    ],
    ['a URL that is no text', JSON.stringify({ message: [part([URL])] }), 'body_too_large'],
    ['text beyond the limit', JSON.stringify({ message: 'x'.repeat(LIMIT) }), 'body_too_large'],
    [
      'many short URLs',
      JSON.stringify({ message: Array(200).fill(part('data:image/png;base64,')) }),
      'body_too_large',
    ],
    [
      'images beyond their limit',
      JSON.stringify({ message: [part(`data:${'A'.repeat(LIMIT + IMAGE_BYTES)}`)] }),
      'body_too_large',
    ],
    ['a URL without an end', `{"message":[{"image_url":{"url":"${URL}`, 'malformed_json'],
    ['an escape without an end', `{"message":[{"image_url":{"url":"${URL}\\"}}]}`, 'malformed_json'],
    ['too deep nesting', `{"message":${'['.repeat(70)}"${URL}"${']'.repeat(70)}}`, 'malformed_json'],
    ['a prototype', `{"__proto__":{"message":[${JSON.stringify(part(URL))}]}}`, 'body_too_large'],
  ] as const) {
    it(`${expected === 'read' ? 'takes' : 'refuses'} ${name}`, async () => {
      const result = await outcome(body);
      assert.deepEqual(result, expected === 'read' ? JSON.parse(body) : expected);
      assert.deepEqual(await outcome(body, { 'content-length': String(Buffer.byteLength(body)) }), result);
    });
  }

  it('can be compressed, and is counted after that', async () => {
    const gzip = { 'content-encoding': 'gzip' };
    const body = JSON.stringify({ message: [part(URL)] });
    assert.deepEqual(await read(requestOf([gzipSync(body)], gzip)), JSON.parse(body));
    const bomb = gzipSync(JSON.stringify({ message: [part(`data:${'A'.repeat(10_000_000)}`)] }));
    assert(bomb.length < LIMIT * 3);
    await assert.rejects(read(requestOf([bomb], gzip)), { code: 'body_too_large' });
  });

  it('that arrives slowly is no reason to refuse others, unless it takes much memory with others', async () => {
    const slowly = (data: string) => {
      const open = new AbortController();
      const waiting = Array.from({ length: 20 }, () => {
        const stream = new Readable({ read() {}, signal: open.signal });
        stream.push(Buffer.from(`{"message":[{"image_url":{"url":"${data}`));
        const headers = { 'content-type': 'application/json' };
        const request = Object.assign(stream, { headers, complete: true }) as unknown as Request;
        return read(request).catch(({ code }) => code);
      });
      return async () => {
        open.abort();
        return Promise.all(waiting);
      };
    };
    const endSmall = slowly(URL);
    assert.deepEqual(await outcome(bodies.plain), JSON.parse(bodies.plain));
    await endSmall();
    const endLarge = slowly(`data:image/png;base64,${'A'.repeat(LIMIT + IMAGE_BYTES - 60)}`);
    assert.deepEqual(await outcome('{"message":"short"}'), { message: 'short' });
    assert.equal(await outcome(bodies.plain), 'capacity');
    const codes = await endLarge();
    assert.equal(codes.filter((code) => code === 'capacity').length, 4);
    assert.deepEqual(await outcome(bodies.plain), JSON.parse(bodies.plain));
  });
});

it('images in the messages of a chat completion are taken too', async () => {
  const reply = { role: 'assistant', content: `data: ${'x'.repeat(1500)}` };
  const messages = [{ role: 'user', content: [part(URL)] }, reply, null, 'x'];
  const body = JSON.stringify({ messages });
  assert.deepEqual(await outcome(body), JSON.parse(body));
});
