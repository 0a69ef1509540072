import { errorCode } from '../domain/errors.ts';
/** What keeps the server from starting and is to be mended outside of it: the message says what, in one line. */
export class StartError extends Error {
  constructor(message: string, cause: unknown) {
    super(message, { cause });
    this.name = 'StartError';
  }
}

/** Why the port could not be had, and what to do. */
export function listenError(
  error: unknown,
  address: { readonly host: string; readonly port: number },
): StartError {
  return new StartError(listenFailure(error, address), error);
}

function listenFailure(
  error: unknown,
  { host, port }: { readonly host: string; readonly port: number },
): string {
  const code = errorCode(error) ?? 'unknown error';
  switch (code) {
    case 'EADDRINUSE':
      return `port ${port} on ${host} is in use: stop the other program, or set PORT`;
    case 'EACCES':
      return `port ${port} on ${host} is not for this user: set PORT to one above 1023`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `HOST ${host} is no address of this machine`;
    default:
      return `cannot listen on ${host}, port ${port} (${code})`;
  }
}
