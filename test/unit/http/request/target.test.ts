import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { readTarget } from '../../../../src/http/request/target.ts';
import { rounds } from '../../../support/random.ts';

describe('a request target', () => {
  for (const url of [
    '/',
    '/api/chat',
    '/api/conversations?limit=3',
    '/health/ready?x=%41',
    '/a;b',
    '/?x=1',
  ]) {
    it(`${url} is routed as it is`, () => assert.deepEqual(readTarget(url), { kind: 'route', url }));
  }

  for (const [from, to] of [
    ['/api/chat/', '/api/chat'],
    ['/api/chat//', '/api/chat'],
    ['/api/chat%20', '/api/chat'],
    ['/api/chat/%20/', '/api/chat'],
    ['//api//chat', '/api/chat'],
    ['//evil.example/', '/evil.example'],
    ['//evil.example', '/evil.example'],
    ['///evil.example/%2e%2e', undefined],
    ['/api/chat/?a=1&b=//x/', '/api/chat?a=1&b=//x/'],
    ['//', '/'],
    ['/%20', '/'],
    ['http://evil.example//api/chat/', '/api/chat'],
  ] as const) {
    it(`${from} is ${to === undefined ? 'refused' : `redirected to ${to}`}`, () => {
      const expected = to === undefined ? 'bad' : { kind: 'redirect', location: to };
      const got = readTarget(from);
      assert.deepEqual(to === undefined ? got.kind : got, expected);
    });
  }

  for (const url of [
    '/./api/chat',
    '/api/../chat',
    '/api/%2e%2E/chat',
    '/api/.%2e',
    '/..',
    '/api%2fchat',
    '/api%5Cchat',
    '/api\\chat',
    '/api/chat%00',
    '/%ff',
    '/%',
    '/%zz',
    '/api/chat?x=%',
    '/caf\u00e9',
    '*',
  ]) {
    it(`${url} is refused`, () => assert.equal(readTarget(url).kind, 'bad'));
  }

  it('keeps a doubly encoded dot as text', () => {
    assert.deepEqual(readTarget('/%252e%252e/x'), { kind: 'route', url: '/%252e%252e/x' });
  });

  it('in absolute form is routed by its path', () => {
    assert.deepEqual(readTarget('http://evil.example/api/chat?a=1'), { kind: 'route', url: '/api/chat?a=1' });
    assert.deepEqual(readTarget('http://evil.example'), { kind: 'route', url: '/' });
  });

  it('never leads elsewhere and settles after one redirect, whatever it is', () => {
    const piece = fc.constantFrom(
      '/',
      '//',
      '%20',
      ' ',
      '.',
      '..',
      '%2e',
      '\\',
      '%5c',
      '%2f',
      'a',
      'api',
      '?',
      '=',
      'http:',
      '@',
      '%',
      '\t',
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const target = readTarget(`/${pieces.join('')}`);
        if (target.kind !== 'redirect') return;
        assert.match(target.location, /^\/(?![/\\])/);
        assert.deepEqual(readTarget(target.location), { kind: 'route', url: target.location });
      }),
      { numRuns: rounds(400, 2000) },
    );
  });
});
