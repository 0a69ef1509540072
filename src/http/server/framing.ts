import type { IncomingMessage } from 'node:http';

const HOST = /^(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{1,5})?$/i;
const ABSOLUTE = /^https?:\/\/([^/?#]*)/i;

/**
 * Finds what Node's parser accepts but another parser on the way could read differently: the end of the body, or the
 * host. The rest of such a connection cannot be trusted.
 * @returns a sentence for the caller; undefined when nothing is wrong
 */
export function framingError(request: IncomingMessage): string | undefined {
  const { httpVersion } = request;
  // HTTP/0.9, a request line without a version, is rejected too.
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return 'The version must be HTTP/1.1 or HTTP/1.0';
  return hostError(request) ?? bodyError(request);
}

function hostError(request: IncomingMessage): string | undefined {
  const hosts = hostsOf(request);
  const [host] = hosts;
  if (hosts.length > 1) return 'The request must have only one Host header';
  if (host === undefined)
    return request.httpVersion === '1.0' ? undefined : 'The request must have a Host header';
  if (!HOST.test(host)) return 'The Host header must be a name or an address, with or without a port';
  // RFC 9112, 3.2.2 lets the target win. A proxy that lets the header win would see another host.
  const authority = ABSOLUTE.exec(request.url ?? '')?.[1];
  if (authority !== undefined && authority.toLowerCase() !== host.toLowerCase())
    return 'The target and the Host header must name the same host';
  return undefined;
}

function hostsOf({ rawHeaders }: IncomingMessage): string[] {
  const hosts: string[] = [];
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] ?? '';
    if (name.length === 4 && name.toLowerCase() === 'host') hosts.push(rawHeaders[at + 1] ?? '');
  }
  return hosts;
}

function bodyError({ headers, httpVersion }: IncomingMessage): string | undefined {
  const encoding = headers['transfer-encoding'];
  if (encoding === undefined) return undefined;
  // For `gzip, chunked` Node would hand out the compressed bytes as the body.
  if (encoding.toLowerCase() !== 'chunked') return 'Transfer-Encoding must be "chunked" alone';
  return httpVersion === '1.0' ? 'HTTP/1.0 requests must not use Transfer-Encoding' : undefined;
}
