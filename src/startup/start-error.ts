import { errorCode } from '../domain/errors.ts';

/** A reason not to start that the operator can remove. The message says in one line what to do. */
export class StartError extends Error {
  constructor(message: string, cause: unknown) {
    super(message, { cause });
    this.name = 'StartError';
  }
}

/** Why the port could not be opened, and what to do. */
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
      return `port ${port} on ${host} needs privileges: set PORT above 1023`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `HOST ${host} is not an address of this machine`;
    default:
      return `cannot listen on ${host}, port ${port} (${code})`;
  }
}
