import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { clientSubject, isUnreadable, trustedProxies } from '../../../../src/http/access/client-subject.ts';

describe('the subject of limits by address', () => {
  it('is an IPv4 address, also mapped to IPv6', () => {
    assert.equal(clientSubject('192.0.2.7'), '192.0.2.7');
    assert.equal(clientSubject('::ffff:192.0.2.7'), '192.0.2.7');
    assert.equal(clientSubject('::FFFF:c000:207'), '192.0.2.7');
  });

  it('is a /64 network in IPv6, however it is written', () => {
    assert.equal(clientSubject('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2::/64');
    assert.equal(clientSubject('2001:0DB8:0001:0002::1'), '2001:db8:1:2::/64');
    assert.equal(clientSubject('2001:db8:0:1:1:1:1:1'), '2001:db8:0:1::/64');
    assert.equal(clientSubject('2001:db8::1:0:0:1'), '2001:db8:0:0::/64');
    assert.equal(clientSubject('2001:db8:1:3::1'), '2001:db8:1:3::/64');
    assert.equal(clientSubject('fe80::1%eth0'), 'fe80:0:0:0::/64');
    assert.equal(clientSubject('::1'), '0:0:0:0::/64');
  });

  it('is the address of an entry with a port, brackets or quotes', () => {
    for (const text of [
      '192.0.2.7:40001',
      '192.0.2.7:',
      '"192.0.2.7:80"',
      '[::ffff:192.0.2.7]:1',
      ' 192.0.2.7 ',
    ]) {
      assert.equal(clientSubject(text), '192.0.2.7', text);
    }
    for (const text of [
      '[2001:db8:1:2::9]:443',
      '[2001:db8:1:2::9]',
      '"[2001:db8:1:2::9]:443"',
      '"2001:db8:1:2::9"',
    ]) {
      assert.equal(clientSubject(text), '2001:db8:1:2::/64', text);
    }
  });

  it('is one of its own for each text that is no address', () => {
    const texts = [
      '',
      'unknown',
      '1.2.3',
      '0x7f000001',
      '_hidden',
      '_other',
      '1.2.3.4:80:90',
      '[::1',
      '::1]:80',
    ];
    const subjects = texts.map(clientSubject);
    assert.equal(new Set(subjects).size, texts.length);
    assert.ok(subjects.every(isUnreadable));
    assert.equal(clientSubject(undefined), clientSubject(''));
    assert.ok(!isUnreadable(clientSubject('192.0.2.7')));
    fc.assert(fc.property(fc.string(), (text) => assert.match(clientSubject(text), /^[\da-z.:/ ]+$/)));
  });

  it('is found behind trusted proxies that write ports', () => {
    const isTrusted = trustedProxies(['10.0.0.0/8', 'fd00::/8']);
    assert.ok(typeof isTrusted === 'function');
    for (const text of ['10.0.0.1', '10.0.0.1:80', '[fd00::1]:80', '::ffff:10.0.0.1'])
      assert.ok(isTrusted(text));
    for (const text of ['192.0.2.7:80', 'unknown', '', '10.0.0.1.5:80']) assert.ok(!isTrusted(text));
  });
});
