import type { IncomingMessage } from 'node:http';

const HOST = /^(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{1,5})?$/i;
const ABSOLUTE = /^https?:\/\/([^/?#]*)/i;

function hostsOf({ rawHeaders }: IncomingMessage): string[] {
  const hosts: string[] = [];
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] ?? '';
    if (name.length === 4 && name.toLowerCase() === 'host') hosts.push(rawHeaders[at + 1] ?? '');
  }
  return hosts;
}

function hostError(request: IncomingMessage): string | undefined {
  const hosts = hostsOf(request);
  const [host] = hosts;
  if (hosts.length > 1) return 'A request must have one Host header';
  if (host === undefined)
    return request.httpVersion === '1.0' ? undefined : 'A request must have a Host header';
  if (!HOST.test(host)) return 'The Host header must be a name or an address, with or without a port';
  // The standard would have the target win; whoever sends two names means to be taken for somebody else by somebody.
  const authority = ABSOLUTE.exec(request.url ?? '')?.[1];
  if (authority !== undefined && authority.toLowerCase() !== host.toLowerCase())
    return 'The target and the Host header must name the same host';
  return undefined;
}

function bodyError({ headers, httpVersion }: IncomingMessage): string | undefined {
  const encoding = headers['transfer-encoding'];
  if (encoding === undefined) return undefined;
  // Node finds the end of `gzip, chunked`, and then would take what is compressed for the body.
  if (encoding.toLowerCase() !== 'chunked') return 'Transfer-Encoding must be chunked and nothing else';
  return httpVersion === '1.0' ? 'HTTP/1.0 has no Transfer-Encoding' : undefined;
}

/**
 * What Node's parser lets pass although another one, in a proxy on the way, could read it in another way: where the
 * body ends, which host is meant. After such a request nothing on its connection can be trusted.
 * @returns a sentence for the caller; undefined: nothing is wrong
 */
export function framingError(request: IncomingMessage): string | undefined {
  const { httpVersion } = request;
  // A request line without a version, HTTP/0.9, counts as such too.
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return 'The version must be HTTP/1.1 or HTTP/1.0';
  return hostError(request) ?? bodyError(request);
}
