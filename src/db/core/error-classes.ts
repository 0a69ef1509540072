/**
 * `transient`: the same transaction can succeed now. `locked`: another session holds a row, table or file. `slow`: the
 * statement took longer than its limit. `lost`: the connection broke, another one can work. `unavailable`: there is no
 * connection, or the server takes no writes, and a retry can help. `refused`: the server denies access (password, rights,
 * database name, TLS), and only an operator can change that.
 */
export type ErrorClass = 'transient' | 'locked' | 'slow' | 'lost' | 'unavailable' | 'refused';

/** The server accepts no writes. */
const READ_ONLY = [
  'ER_OPTION_PREVENTS_STATEMENT',
  'ER_READ_ONLY_MODE',
  'ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION',
  'ER_INNODB_READ_ONLY',
  'ER_OPEN_AS_READONLY',
  // A node of a Galera cluster that has lost the others.
  'ER_UNKNOWN_COM_ERROR',
];

/** Rights that can be granted again. They apply to new connections only. */
const NO_RIGHTS = [
  'ER_ACCESS_DENIED_ERROR',
  'ER_DBACCESS_DENIED_ERROR',
  'ER_TABLEACCESS_DENIED_ERROR',
  'ER_COLUMNACCESS_DENIED_ERROR',
  'ER_SPECIFIC_ACCESS_DENIED_ERROR',
  'ER_MUST_CHANGE_PASSWORD',
  'ER_BINLOG_STMT_MODE_AND_ROW_ENGINE',
];

const ERROR_CLASSES: Readonly<Record<ErrorClass, readonly string[]>> = {
  transient: ['ER_LOCK_DEADLOCK', 'ER_CHECKREAD'],
  // A wait for a metadata lock ends with ER_LOCK_WAIT_TIMEOUT too.
  locked: ['ER_LOCK_WAIT_TIMEOUT', 'ER_LOCK_NOWAIT', 'ER_LOCK_ABORTED', 'SQLITE_BUSY', 'SQLITE_LOCKED'],
  slow: ['PROTOCOL_SEQUENCE_TIMEOUT', 'ER_QUERY_INTERRUPTED', 'ER_QUERY_TIMEOUT', 'ER_STATEMENT_TIMEOUT'],
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
    'ER_CON_COUNT_ERROR',
    'ER_TOO_MANY_USER_CONNECTIONS',
    'ER_USER_LIMIT_REACHED',
    'ER_HOST_IS_BLOCKED',
    ...READ_ONLY,
    // The server has started before the schema of a new database exists.
    'ER_NO_SUCH_TABLE',
    'ER_DISK_FULL',
    'ER_RECORD_FILE_FULL',
    'ER_OUT_OF_RESOURCES',
    'SQLITE_FULL',
    'SQLITE_IOERR',
    'SQLITE_NOMEM',
  ],
  refused: [
    ...NO_RIGHTS,
    'ER_ACCESS_DENIED_NO_PASSWORD_ERROR',
    'ER_BAD_DB_ERROR',
    'ER_HOST_NOT_PRIVILEGED',
    'ER_MUST_CHANGE_PASSWORD_LOGIN',
    'ER_ACCOUNT_HAS_BEEN_LOCKED',
    // The driver's name for the code with which MariaDB reports a locked account.
    'ER_BULK_PARSER_INCOMPLETE_ESCAPE_SEQUENCE',
    'ER_SECURE_TRANSPORT_REQUIRED',
    'ER_NOT_SUPPORTED_AUTH_MODE',
    'ER_PLUGIN_IS_NOT_LOADED',
    'AUTH_SWITCH_PLUGIN_ERROR',
    'HANDSHAKE_NO_SSL_SUPPORT',
    'HANDSHAKE_SSL_ERROR',
    'SQLITE_CANTOPEN',
    'SQLITE_READONLY',
  ],
};

const CLASS_OF_CODE = new Map<string, ErrorClass>(
  (['transient', 'locked', 'slow', 'lost', 'unavailable', 'refused'] as const).flatMap((kind) =>
    ERROR_CLASSES[kind].map((code) => [code, kind]),
  ),
);

/** Undefined for codes that concern the statement or its data. */
export function classifyCode(code: string): ErrorClass | undefined {
  // Extended codes of SQLite, such as SQLITE_IOERR_FSYNC, begin with the primary code.
  return CLASS_OF_CODE.get(code.startsWith('SQLITE_') ? code.split('_', 2).join('_') : code);
}

/** The server has become read-only or denies rights: a new connection can lead to another server or have the rights. */
const NEEDS_CONNECTION: ReadonlySet<string> = new Set([...READ_ONLY, ...NO_RIGHTS]);

export function needsNewConnection(code: string | undefined): boolean {
  return code !== undefined && NEEDS_CONNECTION.has(code);
}
