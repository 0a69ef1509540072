import { connect } from 'node:net';

export interface RawReply {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/**
 * Sends bytes unchanged and reads responses until the server closes the connection or `replies` of them are complete
 * (by Content-Length). For requests that HTTP clients do not send.
 */
export function sendRaw(url: string, bytes: string | Buffer, replies = 1): Promise<RawReply[]> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    let received = Buffer.alloc(0);
    const finish = () => {
      socket.destroy();
      resolve(parse(received));
    };
    socket.on('connect', () => socket.write(bytes));
    socket.on('data', (piece) => {
      received = Buffer.concat([received, piece]);
      if (parse(received).length >= replies) finish();
    });
    socket.on('end', finish);
    socket.on('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNRESET' ? finish() : reject(error),
    );
  });
}

function parse(bytes: Buffer): RawReply[] {
  const found: RawReply[] = [];
  let at = 0;
  for (;;) {
    const end = bytes.indexOf('\r\n\r\n', at);
    if (end < 0) return found;
    const [statusLine = '', ...lines] = bytes.subarray(at, end).toString('latin1').split('\r\n');
    const headers = new Map(
      lines.map((line) => [
        line.slice(0, line.indexOf(':')).toLowerCase(),
        line.slice(line.indexOf(':') + 1).trim(),
      ]),
    );
    const length = Number(headers.get('content-length') ?? 0);
    if (bytes.length < end + 4 + length) return found;
    const body = bytes.subarray(end + 4, end + 4 + length).toString('utf8');
    found.push({ status: Number(statusLine.split(' ')[1]), headers, body });
    at = end + 4 + length;
  }
}
