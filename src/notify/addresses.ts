/** Which addresses of the network strangers may make this server connect to. */
import { type LookupAddress, lookup as systemLookup } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { DeliveryError } from './delivery-error.ts';

/** All addresses of a host name. */
export type Resolve = (hostname: string) => Promise<readonly LookupAddress[]>;

/** Whether everybody in the internet can reach it; false for whatever is no address. */
export function isPublic(address: string): boolean {
  // The library itself takes "8.8.8" and the like too.
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
  // Only this eighth of all addresses is given out; what else the library does not know is somebody's own.
  return ip.range() === 'unicast' && (bytes[0] ?? 0) >> 5 === 0b001;
}

/** 64:ff9b::/96, RFC 6052: the IPv4 address is in the last four bytes. Its other prefixes are for local use. */
const NAT64 = [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

/**
 * A URL's host when it is an address and none that everybody can reach; undefined for names, which are for
 * {@link checkedLookup}. The URL has turned 2130706433, 0x7f.1 and the like into 127.0.0.1 already.
 */
export function privateLiteral({ hostname }: URL): string | undefined {
  const literal = hostname.replace(/^\[(.*)\]$/, '$1');
  return isIP(literal) !== 0 && !isPublic(literal) ? literal : undefined;
}

/**
 * For the sockets of `node:http`: they connect to what was checked, so that a name cannot change its mind in between.
 * One address that is not public spoils them all.
 */
export function checkedLookup(resolve: Resolve = systemResolve): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname).then(
      (addresses) => {
        const [first] = addresses;
        if (!first || addresses.some(({ address }) => !isPublic(address))) {
          callback(new DeliveryError('the host has an address that is not public', true), '');
        } else if (options.all) callback(null, [...addresses]);
        else callback(null, first.address, first.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, ''),
    );
  };
}

function systemResolve(hostname: string): Promise<LookupAddress[]> {
  return new Promise((resolve, reject) => {
    systemLookup(hostname, { all: true }, (error, addresses) => (error ? reject(error) : resolve(addresses)));
  });
}
