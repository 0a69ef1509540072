import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { clientSubject } from '../../../../src/http/access/client-subject.ts';

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

  it('is the same for all without an address', () => {
    for (const text of [undefined, '', 'unknown', '1.2.3', '0x7f000001', '_hidden', '[::1]', '1.2.3.4:80']) {
      assert.equal(clientSubject(text), 'unknown');
    }
    fc.assert(fc.property(fc.string(), (text) => assert.equal(typeof clientSubject(text), 'string')));
  });
});
