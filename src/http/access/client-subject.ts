import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import { compile } from 'proxy-addr';

/** 64 bits: the smallest network that providers assign to one customer. */
const NETWORK_GROUPS = 4;

const UNREADABLE = 'unreadable ';

/**
 * The subject of limits by address: an IPv4 address or a /64 IPv6 network. IPv4-mapped IPv6 counts as IPv4. What is no
 * address, such as an obfuscated one, is a subject by its text: see {@link isUnreadable}.
 * @param address the client address after TRUST_PROXY
 */
export function clientSubject(address = ''): string {
  const plain = plainAddress(address).replace(/%.*$/, '');
  const version = isIP(plain);
  if (version === 4) return plain;
  if (version === 0) return UNREADABLE + createHash('sha256').update(address).digest('hex').slice(0, 16);
  const groups = groupsOf(plain);
  if (groups.slice(0, 6).join(':') === '0:0:0:0:0:ffff') {
    return groups
      .slice(6)
      .map((group) => Number.parseInt(group, 16))
      .flatMap((group) => [group >> 8, group & 255])
      .join('.');
  }
  return `${groups.slice(0, NETWORK_GROUPS).join(':')}::/64`;
}

/** Callers that a proxy hides behind one text, such as `unknown`, share such a subject. */
export function isUnreadable(subject: string): boolean {
  return subject.includes(UNREADABLE);
}

/** Express's "trust proxy", which would not recognise addresses with ports. */
export function trustedProxies(
  trustProxy: number | readonly string[],
): number | ((address: string) => boolean) {
  if (typeof trustProxy === 'number') return trustProxy;
  const isTrusted = compile(trustProxy);
  return (address) => isTrusted(plainAddress(address));
}

/** An entry of X-Forwarded-For without port, brackets and quotes: `1.2.3.4:80`, `[2001:db8::1]:80`. */
function plainAddress(entry: string): string {
  if (isIP(entry) !== 0) return entry;
  const [, bracketed, dotted] = /^\s*"?(?:\[([^\]]*)\]|([\d.]+))(?::\d*)?"?\s*$/.exec(entry) ?? [];
  return bracketed ?? dotted ?? entry.trim().replace(/^"(.*)"$/, '$1');
}

/** The eight groups of an IPv6 address, without leading zeros. */
function groupsOf(address: string): string[] {
  // URL normalizes the address: lower case, a dotted end as groups.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const groups = (text: string) => (text === '' ? [] : text.split(':'));
  if (tail === undefined) return groups(head);
  const [first, last] = [groups(head), groups(tail)];
  return [...first, ...new Array<string>(8 - first.length - last.length).fill('0'), ...last];
}
