import { accessDeniedCode, isDatabaseDown, isFileError, isFileLocked } from '../db/core/errors.ts';
import { MigrationError } from '../db/core/migrations.ts';
import { PendingMigrationsError } from '../db/prepare-schema.ts';
import { errorCode } from '../domain/errors.ts';
import { StartError } from './start-error.ts';

const CREDENTIALS =
  'check user and password of DATABASE_URL, and whether the user may connect from this host and without TLS';
const EXPIRED = 'the password of its user has expired: set a new one with ALTER USER … IDENTIFIED BY …';
const LOCKED = 'its user is locked: unlock it with ALTER USER … ACCOUNT UNLOCK';
const PLUGIN =
  'the authentication plugin of its user is not supported: use caching_sha2_password or mysql_native_password';
const NAME = 'create the database of DATABASE_URL, and grant it to the user';
const RIGHTS =
  'grant SELECT, INSERT, UPDATE, DELETE to its user, and for migrations CREATE, ALTER, INDEX, DROP, REFERENCES';

/** What the operator can do, by the code of the driver. */
const ADVICE: Readonly<Record<string, string>> = {
  ER_ACCESS_DENIED_ERROR: CREDENTIALS,
  ER_ACCESS_DENIED_NO_PASSWORD_ERROR: CREDENTIALS,
  ER_HOST_NOT_PRIVILEGED: CREDENTIALS,
  ER_MUST_CHANGE_PASSWORD: EXPIRED,
  ER_MUST_CHANGE_PASSWORD_LOGIN: EXPIRED,
  ER_ACCOUNT_HAS_BEEN_LOCKED: LOCKED,
  ER_BULK_PARSER_INCOMPLETE_ESCAPE_SEQUENCE: LOCKED,
  AUTH_SWITCH_PLUGIN_ERROR: PLUGIN,
  ER_NOT_SUPPORTED_AUTH_MODE: PLUGIN,
  ER_PLUGIN_IS_NOT_LOADED: PLUGIN,
  ER_BAD_DB_ERROR: NAME,
  ER_DBACCESS_DENIED_ERROR: NAME,
  ER_TABLEACCESS_DENIED_ERROR: RIGHTS,
  ER_COLUMNACCESS_DENIED_ERROR: RIGHTS,
  ER_SECURE_TRANSPORT_REQUIRED: 'it requires TLS: add ?ssl=true to DATABASE_URL',
  HANDSHAKE_NO_SSL_SUPPORT: 'it offers no TLS: remove ssl from DATABASE_URL, or turn TLS on in the server',
  HANDSHAKE_SSL_ERROR:
    'its certificate cannot be verified: set ?ssl={"ca":"…"} in DATABASE_URL, or ?ssl=no-verify',
  ER_BINLOG_STMT_MODE_AND_ROW_ENGINE:
    'binlog_format is STATEMENT, which does not work with READ COMMITTED: set it to ROW',
  SQLITE_READONLY: 'its file or folder is read-only for this user',
  SQLITE_CANTOPEN: 'its file or folder cannot be opened by this user',
  SQLITE_NOTADB: 'its file is not a SQLite database',
};

/** One sentence for a database that denies access; undefined for other errors. */
export function explainDenied(error: unknown): string | undefined {
  const code = accessDeniedCode(error);
  if (code === undefined) return undefined;
  const advice = ADVICE[code.startsWith('SQLITE_') ? code.split('_', 2).join('_') : code];
  const [, right] =
    /\b([A-Z][A-Z, ]+) command denied/.exec(error instanceof Error ? error.message : '') ?? [];
  const missing = right === undefined ? '' : `${right} is missing: `;
  return `the database denies access (${code})${advice === undefined ? '' : `: ${missing}${advice}`}`;
}

/** What an operator can mend becomes one line; other errors pass unchanged. */
export function toStartError(error: unknown): unknown {
  if (error instanceof PendingMigrationsError || error instanceof MigrationError) {
    return new StartError(error.message, error);
  }
  if (isFileLocked(error)) return new StartError('the database file is locked by another program', error);
  const denied = explainDenied(error);
  if (denied !== undefined) return new StartError(denied, error);
  const isUnusable = isFileError(error) && isDatabaseDown(error);
  return isUnusable ? new StartError(`the database file cannot be used (${errorCode(error)})`, error) : error;
}
