/** Keeps webhooks away from private addresses, so that a caller cannot reach internal services through them. */
import { type LookupAddress, lookup as systemLookup } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { DeliveryError } from './delivery-error.ts';

/** Resolves a host name to all its addresses. */
export type Resolve = (hostname: string) => Promise<readonly LookupAddress[]>;

/** Whether an address is globally reachable; false for anything that is no address. */
export function isPublic(address: string): boolean {
  // The library also parses short forms such as "8.8.8".
  if (isIP(address) === 0) return false;
  const ip = ipaddr.parse(address);
  return ip instanceof ipaddr.IPv6 ? isPublicIPv6(ip) : ip.range() === 'unicast';
}

function isPublicIPv6(ip: ipaddr.IPv6): boolean {
  if (ip.isIPv4MappedAddress()) return isPublic(ip.toIPv4Address().toString());
  const bytes = ip.toByteArray();
  if (NAT64.every((byte, index) => bytes[index] === byte)) {
    return isPublic(new ipaddr.IPv4(bytes.slice(NAT64.length)).toString());
  }
  // IANA assigns global unicast addresses from 2000::/3 only.
  return ip.range() === 'unicast' && (bytes[0] ?? 0) >> 5 === 0b001;
}

/** 64:ff9b::/96 (RFC 6052): the last four bytes are the IPv4 address. Hosts behind NAT64 reach IPv4 by it. */
const NAT64 = [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

/**
 * Whether a URL's host is a literal private address; names are checked by {@link checkedLookup}. URL parsing has
 * normalized 2130706433, 0x7f.1 and similar spellings to 127.0.0.1.
 */
export function hasPrivateAddress({ hostname }: URL): boolean {
  const literal = hostname.replace(/^\[(.*)\]$/, '$1');
  return isIP(literal) !== 0 && !isPublic(literal);
}

/**
 * A lookup for sockets. They connect to the addresses checked here, so a second resolution cannot differ (DNS
 * rebinding). Names with any private address are rejected unless `allowPrivate`.
 */
export function checkedLookup(resolve: Resolve, allowPrivate: boolean): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname).then(
      (addresses) => {
        const [first] = addresses;
        if (!first || !(allowPrivate || addresses.every(({ address }) => isPublic(address)))) {
          callback(new DeliveryError('the host has a private address or none', { permanent: true }), '');
        } else if (options.all) callback(null, [...addresses]);
        else callback(null, first.address, first.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, ''),
    );
  };
}

export function systemResolve(hostname: string): Promise<LookupAddress[]> {
  return new Promise((resolve, reject) => {
    systemLookup(hostname, { all: true }, (error, addresses) => (error ? reject(error) : resolve(addresses)));
  });
}
