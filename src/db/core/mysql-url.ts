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

/** TLS that checks both the chain and the name: mysql2 by itself checks the chain only. */
const VERIFIED: Tls = { rejectUnauthorized: true, verifyIdentity: true };

/**
 * `mysql://user:password@host:3306/database?ssl=…` → the driver's options.
 * `ssl`: `true` or `required` (TLS, verified), `no-verify` (TLS, unverified), or a JSON object of TLS options over the
 * verified ones.
 * @throws Error with one readable line that never holds the URL, because of the password in it
 */
export function parseMysqlUrl(text: string): MysqlTarget {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !/^(mysql|mariadb):$/.test(url.protocol) || url.hostname === '') {
    throw fault('must be mysql://user:password@host:3306/database');
  }
  const database = decoded(url.pathname.slice(1), 'the database name');
  if (database === '' || database.includes('/')) {
    throw fault('must name a database: mysql://user:password@host:3306/database');
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

function fault(what: string): Error {
  return new Error(`DATABASE_URL ${what}`);
}

function decoded(part: string, what: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw fault(`is not valid in ${what}: a % must be followed by two hexadecimal digits (% itself is %25)`);
  }
}

function sslOf(parameters: URLSearchParams): Pick<MysqlTarget, 'ssl'> {
  const unknown = [...new Set(parameters.keys())].filter((name) => name !== 'ssl');
  if (unknown.length > 0) {
    throw fault(`has unknown parameters: ${unknown.join(', ')}; the only one there is is ssl`);
  }
  const values = parameters.getAll('ssl');
  if (values.length > 1) throw fault('has ssl more than once');
  const value = values[0];
  if (value === undefined || value === 'false') return {};
  if (value === 'true' || value === 'required') return { ssl: VERIFIED };
  if (value === 'no-verify') return { ssl: { rejectUnauthorized: false } };
  return { ssl: { ...VERIFIED, ...jsonObject(value) } };
}

function jsonObject(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  } catch {
    // The same line as for JSON of another kind; the text may hold a key and is not shown.
  }
  throw fault(
    'has an ssl that is not one of true, required, no-verify, false or a JSON object of TLS options',
  );
}
