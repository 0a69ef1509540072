/**
 * The closed list of error codes. A code never changes its meaning: callers branch on it, and
 * `type` in a problem document is `/problems/<code with dashes>`.
 */
export const ERROR_CODES = {
  validation: [400, 'The request is not valid'],
  malformed_json: [400, 'The body is not JSON'],
  malformed_path: [400, 'The path is not valid'],
  malformed_request: [400, 'The request is not valid HTTP'],
  unauthorized: [401, 'This needs a key'],
  forbidden: [403, 'This key may not do that'],
  link_invalid: [403, 'This link is not valid'],
  not_found: [404, 'Nothing is here'],
  conversation_not_found: [404, 'No such conversation'],
  stream_not_found: [404, 'No such stream'],
  export_not_found: [404, 'No such export'],
  key_not_found: [404, 'No such key'],
  method_not_allowed: [405, 'This method is not allowed here'],
  request_timeout: [408, 'The request took too long to arrive'],
  export_not_ready: [409, 'This export has no file'],
  precondition_failed: [412, 'The file is another one'],
  body_too_large: [413, 'The body is too large'],
  unsupported_media_type: [415, 'This kind of body is not supported'],
  range_not_satisfiable: [416, 'The range is beyond the end'],
  misdirected_request: [421, 'This host is not served here'],
  idempotency_mismatch: [422, 'This key belongs to another request'],
  content_blocked: [422, 'The message has words that are not allowed here'],
  rate_limited: [429, 'Too many requests'],
  headers_too_large: [431, 'The header section is too large'],
  internal: [500, 'Something went wrong here'],
  upstream_error: [502, 'The model server failed'],
  upstream_rejected: [502, 'The model server refused the request'],
  upstream_incomplete: [502, 'The model server broke off its reply'],
  reply_incomplete: [502, 'This reply was broken off'],
  reply_cut: [502, 'The end of this reply was lost'],
  upstream_empty: [502, 'The model server gave an empty reply'],
  upstream_busy: [503, 'The model server is busy'],
  upstream_timeout: [504, 'The model server did not answer in time'],
  database_unavailable: [503, 'The database is not available'],
  capacity: [503, 'This server is at its capacity'],
  shutting_down: [503, 'This server is shutting down'],
} as const satisfies Record<string, readonly [status: number, title: string]>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface FieldError {
  readonly path: string;
  readonly message: string;
}

export interface AppErrorOptions {
  /** The underlying error: for the log only, never shown to a caller. */
  readonly cause?: unknown;
  /** Seconds for the `Retry-After` header. */
  readonly retryAfter?: number;
  readonly errors?: readonly FieldError[];
  /** Extra response headers, such as `Allow`. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** An error with a public meaning. Whatever is thrown and is not one of these becomes an opaque 500. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly retryAfter: number | undefined;
  readonly errors: readonly FieldError[] | undefined;
  readonly headers: Readonly<Record<string, string>> | undefined;

  /** @param detail one sentence a caller may read: no SQL, no driver or upstream text, no body */
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

/** One and the same for what never was, what is gone, and what is somebody else's. */
export function conversationNotFound(): AppError {
  return new AppError('conversation_not_found', 'There is no conversation with this id, or it has expired');
}

/** As {@link conversationNotFound}, for a reply. */
export function streamNotFound(): AppError {
  return new AppError('stream_not_found', 'There is no stream with this id, or it has expired');
}

/** As {@link conversationNotFound}, for an export. */
export function exportNotFound(): AppError {
  return new AppError('export_not_found', 'There is no export with this id, or it was removed');
}
