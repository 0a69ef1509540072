/**
 * `transient`: the same transaction can succeed now. `lost`: the connection broke, another one can work. `refused`: the
 * server denies access (password, rights, database name, TLS), and only an operator can change that.
 */
export type ErrorClass = 'transient' | 'lost' | 'unavailable' | 'refused';

const ERROR_CLASSES: Readonly<Record<ErrorClass, readonly string[]>> = {
  transient: ['ER_LOCK_DEADLOCK', 'ER_LOCK_WAIT_TIMEOUT', 'ER_CHECKREAD', 'SQLITE_BUSY', 'SQLITE_LOCKED'],
  lost: [
    'PROTOCOL_CONNECTION_LOST',
    'ECONNRESET',
    'EPIPE',
    'ER_CONNECTION_KILLED',
    'ER_SERVER_SHUTDOWN',
    'ER_CLIENT_INTERACTION_TIMEOUT',
  ],
  unavailable: [
    'ECONNREFUSED',
    'ETIMEDOUT',
    'ENOTFOUND',
    'EAI_AGAIN',
    'EHOSTUNREACH',
    'ENETUNREACH',
    'PROTOCOL_SEQUENCE_TIMEOUT',
    'ER_CON_COUNT_ERROR',
    'ER_TOO_MANY_USER_CONNECTIONS',
    'ER_USER_LIMIT_REACHED',
    'ER_HOST_IS_BLOCKED',
    'ER_OPTION_PREVENTS_STATEMENT',
    'ER_READ_ONLY_MODE',
    'ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION',
    // The server has started before the schema of a new database exists.
    'ER_NO_SUCH_TABLE',
    'ER_DISK_FULL',
    'ER_RECORD_FILE_FULL',
    'ER_OUT_OF_RESOURCES',
    'ER_QUERY_INTERRUPTED',
    'ER_QUERY_TIMEOUT',
    'ER_STATEMENT_TIMEOUT',
    'SQLITE_FULL',
    'SQLITE_IOERR',
    'SQLITE_NOMEM',
  ],
  refused: [
    'ER_ACCESS_DENIED_ERROR',
    'ER_ACCESS_DENIED_NO_PASSWORD_ERROR',
    'ER_DBACCESS_DENIED_ERROR',
    'ER_BAD_DB_ERROR',
    'HANDSHAKE_NO_SSL_SUPPORT',
    'HANDSHAKE_SSL_ERROR',
    'SQLITE_CANTOPEN',
    'SQLITE_READONLY',
  ],
};

const CLASS_OF_CODE = new Map<string, ErrorClass>(
  (['transient', 'lost', 'unavailable', 'refused'] as const).flatMap((kind) =>
    ERROR_CLASSES[kind].map((code) => [code, kind]),
  ),
);

/** Undefined for codes that concern the statement or its data. */
export function classifyCode(code: string): ErrorClass | undefined {
  // Extended codes of SQLite, such as SQLITE_IOERR_FSYNC, begin with the primary code.
  return CLASS_OF_CODE.get(code.startsWith('SQLITE_') ? code.split('_', 2).join('_') : code);
}
