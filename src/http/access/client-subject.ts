import { isIP } from 'node:net';

/** 64 bits: the smallest network that providers assign to one customer. */
const NETWORK_GROUPS = 4;

/**
 * The subject of limits by address: an IPv4 address or a /64 IPv6 network. IPv4-mapped IPv6 counts as IPv4. All
 * invalid addresses are one subject.
 * @param address the client address after TRUST_PROXY
 */
export function clientSubject(address: string | undefined): string {
  const plain = address?.replace(/%.*$/, '') ?? '';
  const version = isIP(plain);
  if (version === 4) return plain;
  if (version === 0) return 'unknown';
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

/** The eight groups of an IPv6 address, without leading zeros. */
function groupsOf(address: string): string[] {
  // URL normalizes the address: lower case, a dotted end as groups.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const groups = (text: string) => (text === '' ? [] : text.split(':'));
  if (tail === undefined) return groups(head);
  const [first, last] = [groups(head), groups(tail)];
  return [...first, ...new Array<string>(8 - first.length - last.length).fill('0'), ...last];
}
