import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { describeTarget } from '../../src/db/core/client.ts';
import { parseMysqlUrl } from '../../src/db/core/connection/mysql-url.ts';

describe('a mysql:// URL', () => {
  test('gives host, port, database, user and password, percent-decoded', () => {
    assert.deepEqual(parseMysqlUrl('mysql://us%40er:p%3Aa%2Fs%25%F0%9F%98%80@db.example:3307/chat'), {
      host: 'db.example',
      port: 3307,
      database: 'chat',
      user: 'us@er',
      password: 'p:a/s%😀',
    });
  });

  test('has port 3306 unless it says otherwise, and IPv6 hosts lose their brackets', () => {
    assert.deepEqual(parseMysqlUrl('mariadb://[::1]/chat'), { host: '::1', port: 3306, database: 'chat' });
  });

  const verified = { rejectUnauthorized: true, verifyIdentity: true };
  const tls = [
    ['true', verified],
    ['required', verified],
    ['no-verify', { rejectUnauthorized: false }],
    ['{"ca":"PEM"}', { ...verified, ca: 'PEM' }],
    ['false', undefined],
  ] as const;
  for (const [value, expected] of tls) {
    test(`with ssl=${value} means ${JSON.stringify(expected)}`, () => {
      assert.deepEqual(parseMysqlUrl(`mysql://h/d?ssl=${encodeURIComponent(value)}`).ssl, expected);
    });
  }

  const wrong = [
    ['mysql://root:s3cret@host/d?sslmode=require&foo=1', /unknown parameters: sslmode, foo/],
    ['mysql://root:s3cret@host/d?ssl=maybe', /ssl/],
    ['mysql://root:s3cret@host/d?ssl=[1]', /ssl/],
    ['mysql://root:s3cret@host/d?ssl=true&ssl=false', /more than once/],
    ['mysql://root:s3cret%zz@host/d', /password/],
    ['mysql://root:s3cret@host/', /database/],
    ['postgres://root:s3cret@host/d', /must be mysql:/],
    ['s3cret', /must be mysql:/],
  ] as const;
  for (const [url, message] of wrong) {
    test(`${url} is an error of one line without the password`, () => {
      assert.throws(
        () => parseMysqlUrl(url),
        (error: Error) => {
          assert.match(error.message, message);
          assert.match(error.message, /^DATABASE_URL [^\n]+$/);
          assert.doesNotMatch(error.message, /s3cret/);
          return true;
        },
      );
    });
  }

  test('is described without user and password', () => {
    const target = { kind: 'mysql', url: 'mysql://root:s3cret@[::1]:3307/chat' } as const;
    assert.equal(describeTarget({ target }), 'MySQL [::1]:3307/chat');
  });
});
