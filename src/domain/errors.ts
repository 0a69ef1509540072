/**
 * The closed list of error codes. A code never changes its meaning, because callers branch on it. The `type` of a
 * problem document is `/problems/<code with dashes>`.
 */
export const ERROR_CODES = {
  validation: [400, 'Validation failed'],
  malformed_json: [400, 'Malformed JSON'],
  malformed_path: [400, 'Malformed path'],
  malformed_request: [400, 'Bad Request'],
  unauthorized: [401, 'Unauthorized'],
  forbidden: [403, 'Forbidden'],
  link_invalid: [403, 'Invalid link'],
  not_found: [404, 'Not Found'],
  conversation_not_found: [404, 'Conversation not found'],
  message_not_found: [404, 'Message not found'],
  stream_not_found: [404, 'Stream not found'],
  export_not_found: [404, 'Export not found'],
  key_not_found: [404, 'Key not found'],
  method_not_allowed: [405, 'Method Not Allowed'],
  request_timeout: [408, 'Request Timeout'],
  conversation_busy: [409, 'Conversation busy'],
  message_superseded: [409, 'Message superseded'],
  export_not_ready: [409, 'Export not ready'],
  precondition_failed: [412, 'Precondition Failed'],
  body_too_large: [413, 'Content Too Large'],
  unsupported_media_type: [415, 'Unsupported Media Type'],
  range_not_satisfiable: [416, 'Range Not Satisfiable'],
  misdirected_request: [421, 'Misdirected Request'],
  idempotency_mismatch: [422, 'Idempotency key mismatch'],
  content_blocked: [422, 'Content blocked'],
  user_mismatch: [422, 'End user mismatch'],
  rate_limited: [429, 'Rate limit exceeded'],
  headers_too_large: [431, 'Request Header Fields Too Large'],
  internal: [500, 'Internal Server Error'],
  upstream_error: [502, 'Model server error'],
  upstream_rejected: [502, 'Model server rejected the request'],
  upstream_filtered: [422, 'Model server blocked the content'],
  upstream_quota: [502, 'Model server quota exhausted'],
  upstream_incomplete: [502, 'Model server ended the reply early'],
  reply_incomplete: [502, 'Reply incomplete'],
  reply_cut: [502, 'Reply cut'],
  upstream_empty: [502, 'Model server sent an empty reply'],
  upstream_busy: [503, 'Model server busy'],
  upstream_timeout: [504, 'Model server timeout'],
  database_unavailable: [503, 'Database unavailable'],
  database_busy: [503, 'Database busy'],
  capacity: [503, 'Capacity reached'],
  shutting_down: [503, 'Shutting down'],
} as const satisfies Record<string, readonly [status: number, title: string]>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface FieldError {
  readonly path: string;
  readonly message: string;
}

export interface AppErrorOptions {
  /** The underlying error, for the log only. */
  readonly cause?: unknown;
  /** Seconds for the `Retry-After` header. */
  readonly retryAfter?: number;
  readonly errors?: readonly FieldError[];
  /** Extra response headers, such as `Allow`. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** An error with a public meaning. Every other error becomes an opaque 500. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly retryAfter: number | undefined;
  readonly errors: readonly FieldError[] | undefined;
  readonly headers: Readonly<Record<string, string>> | undefined;

  /** @param detail one sentence for the caller: no SQL, no text of a driver, an upstream or a body */
  constructor(code: ErrorCode, detail?: string, options: AppErrorOptions = {}) {
    super(detail ?? ERROR_CODES[code][1], options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'AppError';
    this.code = code;
    this.retryAfter = options.retryAfter;
    this.errors = options.errors;
    this.headers = options.headers;
  }

  get status(): number {
    return ERROR_CODES[this.code][0];
  }

  get title(): string {
    return ERROR_CODES[this.code][1];
  }
}

/** Whether the database is down, so that no operation succeeds. */
export function isUnavailable(error: unknown): error is AppError {
  return error instanceof AppError && error.code === 'database_unavailable';
}

/** Whether the database is down or busy: the same operation can succeed later. */
export function isDatabaseError(error: unknown): error is AppError {
  return isUnavailable(error) || isDatabaseBusy(error);
}

/** Whether this operation was too slow or met a lock, while the database serves others. */
export function isDatabaseBusy(error: unknown): error is AppError {
  return error instanceof AppError && error.code === 'database_busy';
}

/** The code of an error of the system or of a driver, such as `ENOENT` or `ER_DUP_ENTRY`. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** The same error for unknown, deleted and foreign ids, so that ids cannot be probed. */
export function conversationNotFound(): AppError {
  return new AppError('conversation_not_found', 'No conversation with this id exists, or it has expired');
}

/** Also for a message of another conversation. */
export function messageNotFound(): AppError {
  return new AppError('message_not_found', 'No message with this id exists in the conversation');
}

/** As {@link conversationNotFound}, for a reply. */
export function replyNotFound(): AppError {
  return new AppError('message_not_found', 'No reply with this id exists, or it has expired');
}

/** A later reply or an edited question has taken the place of the message. */
export function messageSuperseded(): AppError {
  return new AppError(
    'message_superseded',
    'Another message has taken the place of this one; read the conversation for its messages.',
  );
}

/** A reply of the conversation is being generated. */
export function conversationBusy(): AppError {
  return new AppError(
    'conversation_busy',
    'A reply of this conversation is being generated; stop it or wait for its end.',
    { retryAfter: 1 },
  );
}

/** A conversation belongs to one end user of the caller. */
export function userMismatch(): AppError {
  return new AppError(
    'user_mismatch',
    'The conversation belongs to another user; send its user, or none, or start a new conversation.',
  );
}

/** @param path the member of the body */
export function invalidMember(path: string, message: string): AppError {
  return new AppError('validation', `${path}: ${message}`, { errors: [{ path, message }] });
}

/** A reply in which the reader sees nothing, in the form that was asked for. */
export function emptyReply(): AppError {
  return new AppError(
    'upstream_empty',
    'The reply has no text in this format; ask for another format, or again.',
  );
}

/** As {@link conversationNotFound}, for a stream. */
export function streamNotFound(): AppError {
  return new AppError('stream_not_found', 'No stream with this id exists, or it has expired');
}

/** As {@link conversationNotFound}, for an export. */
export function exportNotFound(): AppError {
  return new AppError('export_not_found', 'No export with this id exists, or it was removed');
}
