import { isIP } from 'node:net';

/** 64 bits: what one customer of a provider gets at least, so that nobody has more addresses to come from than others. */
const NETWORK_GROUPS = 4;

/**
 * Whom the limits by address count as one: an IPv4 address, or an IPv6 network of 64 bits. An IPv4 address in IPv6
 * clothes is the same as without. Whatever is no address is one subject.
 * @param address what TRUST_PROXY made of the connection
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
  // A URL writes every address in one way: lower case, and a dotted end as groups.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const groups = (text: string) => (text === '' ? [] : text.split(':'));
  if (tail === undefined) return groups(head);
  const [first, last] = [groups(head), groups(tail)];
  return [...first, ...new Array<string>(8 - first.length - last.length).fill('0'), ...last];
}
