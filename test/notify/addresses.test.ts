import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { hasPrivateAddress, isPublic } from '../../src/notify/addresses.ts';
import { webhookUrlError } from '../../src/notify/webhook.ts';

const PRIVATE = {
  loopback: ['127.0.0.1', '127.255.255.254', '::1'],
  unspecified: ['0.0.0.0', '0.1.2.3', '::'],
  private: ['10.0.0.1', '172.16.0.1', '172.31.255.255', '192.168.1.1'],
  'link-local': ['169.254.169.254', 'fe80::1', 'fe80::1%eth0', 'febf::1'],
  'unique local': ['fc00::1', 'fd12:3456:789a::1'],
  'site-local': ['fec0::1'],
  'carrier-grade NAT': ['100.64.0.1', '100.127.255.255'],
  multicast: ['224.0.0.1', '239.255.255.250', 'ff02::1'],
  'broadcast or reserved': ['255.255.255.255', '240.0.0.1', '192.0.0.8', '192.0.2.1', '198.18.0.1'],
  'documentation or discard': ['2001:db8::1', '3fff::1', '100::1'],
  'IPv4 in IPv6': [
    '::ffff:127.0.0.1',
    '::ffff:7f00:1',
    '::ffff:a9fe:a9fe',
    '::ffff:0:127.0.0.1',
    '::127.0.0.1',
    '64:ff9b::127.0.0.1',
    '64:ff9b::10.0.0.1',
    '64:ff9b:1::8.8.8.8',
    '2002:7f00:1::',
    '2001:0:4136:e378:8000:63bf:3fff:fdd2',
  ],
  'no address': ['', 'localhost', '8.8.8', '8.8.8.8.8', '::g', '8.8.8.8/32'],
};

describe('an address', () => {
  for (const [kind, addresses] of Object.entries(PRIVATE)) {
    for (const address of addresses) {
      it(`is not public: ${JSON.stringify(address)} (${kind})`, () => assert.equal(isPublic(address), false));
    }
  }
  for (const address of [
    '8.8.8.8',
    '172.15.255.255',
    '172.32.0.1',
    '100.63.255.255',
    '100.128.0.1',
    '2606:4700::1111',
    '::ffff:8.8.8.8',
    '64:ff9b::8.8.8.8',
  ]) {
    it(`is public: ${address}`, () => assert.equal(isPublic(address), true));
  }
});

describe('the host of a URL', () => {
  for (const host of [
    '127.0.0.1',
    '127.1',
    '127.0.0.1.',
    '2130706433',
    '0x7f000001',
    '0x7f.0.0.1',
    '0177.0.0.1',
    '017700000001',
    '0',
    '１２７.0.0.1',
    '127。0。0。1',
    '%31%32%37.0.0.1',
    '[::1]',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[0:0:0:0:0:ffff:10.0.0.1]',
    '[64:ff9b::7f00:1]',
    '169.254.169.254',
  ]) {
    it(`is rejected as a private address in every spelling: ${host}`, () => {
      assert.ok(hasPrivateAddress(new URL(`http://${host}:8080/hook`)));
      assert.match(webhookUrlError(`http://${host}/`, false) ?? '', /private/);
      assert.equal(webhookUrlError(`http://${host}/`, true), undefined);
    });
  }
  for (const host of ['8.8.8.8', '[2606:4700::1111]', 'example.com', '127.0.0.1.example.com', 'localhost']) {
    it(`is accepted before resolution: ${host}`, () => {
      assert.equal(webhookUrlError(`https://${host}/hook`, false), undefined);
    });
  }
  it('must have no user and no password, and http or https', () => {
    for (const url of [
      'http://user:password@example.com/',
      'https://user@example.com/',
      'http://:p@example.com/',
    ]) {
      assert.match(webhookUrlError(url, true) ?? '', /user or a password/);
    }
    for (const url of [
      'ftp://example.com/',
      'file:///etc/passwd',
      'javascript:alert(1)',
      'example.com',
      '',
    ]) {
      assert.match(webhookUrlError(url, true) ?? '', /http/);
    }
  });
});
