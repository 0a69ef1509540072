import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { SignedLinks } from '../../../../src/services/access/signed-links.ts';
import { anyCharacter } from '../../../support/any-character.ts';

const NOW = Date.UTC(2024, 2, 21, 12);
const PATH = '/api/exports/0190a7b0-0000-7000-8000-000000000000/file';
const [OLD, NEW] = ['the secret of last year 123', 'the secret of this year 123'];

const linksWith = (...secrets: string[]) => new SignedLinks(async () => secrets);
const links = linksWith(NEW);
const read = (query: string) => Object.fromEntries(new URLSearchParams(query));

describe('a signed link', () => {
  it('is valid for GET and HEAD until its expiry, to the millisecond', async () => {
    const query = await links.sign(PATH, NOW + 60_999);
    assert.match(query, /^expires=\d{10}&signature=[\w-]{43}$/);
    for (const method of ['GET', 'HEAD']) {
      assert.equal(await links.verify(method, PATH, read(query), NOW), true);
      assert.equal(await links.verify(method, PATH, read(query), NOW + 59_999), true);
      assert.equal(await links.verify(method, PATH, read(query), NOW + 60_000), false);
    }
  });

  it('is valid for no other method, path, time or parameter', async () => {
    const query = read(await links.sign(PATH, NOW + 60_000, { format: 'csv' }));
    assert.equal(await links.verify('GET', PATH, query, NOW), true);
    for (const method of ['POST', 'DELETE', 'get', 'OPTIONS', '']) {
      assert.equal(await links.verify(method, PATH, query, NOW), false);
    }
    for (const path of [`${PATH}/`, PATH.toUpperCase(), '/api/exports', '', `${PATH}\n`]) {
      assert.equal(await links.verify('GET', path, query, NOW), false);
    }
    const { format: _format, ...without } = query;
    const { signature, ...unsigned } = query;
    const later = String(Number(query.expires) + 1);
    const changed: Record<string, string>[] = [
      { ...query, expires: later },
      { ...query, expires: `0${query.expires}` },
      { ...query, expires: `${query.expires}.0` },
      { ...query, expires: 'Infinity' },
      { ...query, format: 'json' },
      { ...query, extra: '' },
      { ...query, Signature: signature ?? '' },
      without,
      unsigned,
      {},
    ];
    for (const other of changed) assert.equal(await links.verify('GET', PATH, other, NOW), false);
  });

  it('accepts any order of parameters, with any content', async () => {
    const parameters = fc.dictionary(
      fc.string({ unit: 'grapheme' }).filter((name) => !['expires', 'signature'].includes(name)),
      fc.string({ unit: 'grapheme' }),
      { maxKeys: 5 },
    );
    await fc.assert(
      fc.asyncProperty(parameters, async (given) => {
        const query = read(await links.sign(PATH, NOW + 60_000, given));
        const reversed = Object.fromEntries(Object.entries(query).reverse());
        assert.equal(await links.verify('GET', PATH, reversed, NOW), true);
      }),
    );
  });

  it('distinguishes any two sets of parameters', async () => {
    const signatureOf = async (given: Record<string, string>) =>
      read(await links.sign(PATH, NOW + 60_000, given)).signature;
    const alike = [
      { a: 'b', c: 'd' },
      { a: 'b&c=d' },
      { 'a=b&c': 'd' },
      { a: 'b\n["c","d"]' },
      { a: 'd', c: 'b' },
    ];
    assert.equal(new Set(await Promise.all(alike.map(signatureOf))).size, alike.length);
  });

  it('accepts no other signature, not even another encoding of the right one', async () => {
    const query = read(await links.sign(PATH, NOW + 60_000));
    const right = query.signature ?? '';
    const verify = (signature: string) => links.verify('GET', PATH, { ...query, signature }, NOW);
    const alphabet = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/='];
    for (const last of alphabet) {
      const signature = right.slice(0, -1) + last;
      assert.equal(await verify(signature), signature === right, signature);
    }
    for (const signature of [
      `${right}=`,
      ` ${right}`,
      `${right}\0`,
      '',
      right.repeat(10_000),
      'ÿ'.repeat(43),
    ]) {
      assert.equal(await verify(signature), false);
    }
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: anyCharacter, minLength: 43, maxLength: 43 }), async (signature) => {
        assert.equal(await verify(signature), false);
      }),
    );
  });

  it('is valid after a change of the secret while the old one is listed', async () => {
    const query = read(await linksWith(OLD).sign(PATH, NOW + 60_000));
    assert.equal(await linksWith(NEW, OLD).verify('GET', PATH, query, NOW), true);
    assert.equal(await linksWith(NEW).verify('GET', PATH, query, NOW), false);
    const fresh = read(await linksWith(NEW, OLD).sign(PATH, NOW + 60_000));
    assert.equal(await linksWith(NEW).verify('GET', PATH, fresh, NOW), true);
    assert.equal(await linksWith(OLD).verify('GET', PATH, fresh, NOW), false);
  });

  it('is neither signed nor accepted with an empty, short or missing secret', async () => {
    for (const secrets of [[], [''], ['short'], [NEW, '']]) {
      await assert.rejects(linksWith(...secrets).sign(PATH, NOW + 60_000), RangeError);
      const query = { expires: String(NOW / 1000 + 60), signature: 'A'.repeat(43) };
      await assert.rejects(linksWith(...secrets).verify('GET', PATH, query, NOW), RangeError);
    }
  });

  it('reserves two parameters', async () => {
    for (const name of ['expires', 'signature']) {
      await assert.rejects(links.sign(PATH, NOW, { [name]: '1' }), RangeError);
    }
  });
});
