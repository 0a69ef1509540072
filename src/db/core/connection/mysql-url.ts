import { isObject } from '../../../util/json.ts';

export interface MysqlTarget {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user?: string;
  readonly password?: string;
  /** The driver's TLS options; without it the connection is not encrypted. */
  readonly ssl?: Tls;
}

interface Tls {
  readonly rejectUnauthorized: boolean;
  /** Whether the certificate must be for this host. */
  readonly verifyIdentity?: boolean;
}

/** Checks chain and name; mysql2 checks only the chain by default. */
const VERIFIED: Tls = { rejectUnauthorized: true, verifyIdentity: true };

/**
 * `mysql://user:password@host:3306/database?ssl=…` → the driver's options.
 * `ssl`: `true` or `required` (TLS, verified), `no-verify` (TLS, unverified), or a JSON object of TLS options over the
 * verified ones.
 * @throws Error with one readable line without the URL, which contains the password
 */
export function parseMysqlUrl(text: string): MysqlTarget {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !/^(mysql|mariadb):$/.test(url.protocol) || url.hostname === '') {
    throw urlError('must be mysql://user:password@host:3306/database');
  }
  const database = decoded(url.pathname.slice(1), 'the database name');
  if (database === '' || database.includes('/')) {
    throw urlError('must name a database: mysql://user:password@host:3306/database');
  }
  const user = decoded(url.username, 'the user');
  const password = decoded(url.password, 'the password');
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? 3306 : Number(url.port),
    database,
    ...(user === '' ? {} : { user }),
    ...(password === '' ? {} : { password }),
    ...sslOf(url.searchParams),
  };
}

function urlError(what: string): Error {
  return new Error(`DATABASE_URL ${what}`);
}

function decoded(part: string, what: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw urlError(
      `is not valid in ${what}: a % must be followed by two hexadecimal digits (% itself is %25)`,
    );
  }
}

function sslOf(parameters: URLSearchParams): Pick<MysqlTarget, 'ssl'> {
  const unknown = [...new Set(parameters.keys())].filter((name) => name !== 'ssl');
  if (unknown.length > 0) {
    throw urlError(`has unknown parameters: ${unknown.join(', ')}; the only parameter is ssl`);
  }
  const values = parameters.getAll('ssl');
  if (values.length > 1) throw urlError('has ssl more than once');
  const value = values[0];
  if (value === undefined || value === 'false') return {};
  if (value === 'true' || value === 'required') return { ssl: VERIFIED };
  if (value === 'no-verify') return { ssl: { rejectUnauthorized: false } };
  return { ssl: { ...VERIFIED, ...jsonObject(value) } };
}

function jsonObject(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch {
    // Same error as for other JSON. The text can contain a key and is not shown.
  }
  throw urlError(
    'has an ssl that is not one of true, required, no-verify, false or a JSON object of TLS options',
  );
}
