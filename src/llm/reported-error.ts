/**
 * Reads the errors that model servers report. They are used for decisions and in the log, and never passed to callers.
 */
import { isObject, parseJson } from '../util/json.ts';
import type { Json } from './reply/shapes.ts';

export interface ReportedError {
  readonly message?: string | undefined;
  readonly code?: string | undefined;
  readonly type?: string | undefined;
  /** The member of the request that the error is about. */
  readonly param?: string | undefined;
  /** The HTTP status that the error names, as in `{"error": {"code": 429}}` inside a response of 200. */
  readonly status?: number | undefined;
}

const MAX_NAME_CHARS = 100;
/** Longer messages are cut before they are searched for secrets. */
const MAX_MESSAGE_CHARS = 4000;
/** Members that contain the error. If several do, the last one overrides the others. */
const WRAPPERS = ['error', 'errors', 'detail', 'message'] as const;
const MAX_DEPTH = 4;
/** Names in `code` or `type` that mean a status, used if the error has no number. */
const STATUS_NAMES: readonly (readonly [RegExp, number])[] = [
  [/rate_?limit|too_?many_?requests|resource_?exhausted|throttl/i, 429],
  [/overloaded|unavailable/i, 503],
];

/** Reads the body of an error response: JSON in any of the usual shapes, or text. */
export function readErrorBody(text: string): ReportedError | undefined {
  const value = parseJson(text);
  if (value !== undefined) return readReportedError(value);
  const words = text.replaceAll(/<(style|script)\b[\s\S]*?<\/\1>|<[^>]*>/gi, ' ');
  return readReportedError(words);
}

/**
 * Reads the errors of OpenAI, Azure, Anthropic, Google, FastAPI (vLLM, Mistral), DashScope, Databricks and Ollama.
 * Undefined when there is no error, as in `{}`, `false` or an object whose members are empty.
 */
export function readReportedError(value: unknown): ReportedError | undefined {
  const { message, code, type, param, status } = membersOf(value, 0);
  if (message === undefined && code === undefined && type === undefined) return undefined;
  const named = STATUS_NAMES.find(([pattern]) => pattern.test(`${code} ${type}`))?.[1];
  return { message, code, type, param, status: status ?? named };
}

function membersOf(value: unknown, depth: number): ReportedError {
  if (typeof value === 'string') return defined({ message: messageText(value) });
  if (Array.isArray(value)) return depth < MAX_DEPTH ? membersOf(value[0], depth + 1) : {};
  if (!isObject(value)) return {};
  let found = ownMembers(value);
  if (depth === MAX_DEPTH) return found;
  for (const name of WRAPPERS) found = { ...found, ...membersOf(value[name], depth + 1) };
  return isObject(value.error) ? { ...found, ...membersOf(value.error, depth + 1) } : found;
}

function ownMembers(value: Json): ReportedError {
  const raw = isObject(value.metadata) ? messageText(value.metadata.raw) : undefined;
  const message = messageText(value.msg ?? value.error_msg ?? value.error_description) ?? raw;
  const code = name(value.code ?? value.error_code ?? value.status);
  return defined({
    message,
    code: code === '0' || code === '200' ? undefined : code,
    type: value.type === 'error' ? undefined : name(value.type),
    param: name(value.param) ?? pathOf(value.loc),
    status: statusOf(value.code) ?? statusOf(value.status),
  });
}

function defined(error: ReportedError): ReportedError {
  return Object.fromEntries(Object.entries(error).filter(([, member]) => member !== undefined));
}

function messageText(value: unknown): string | undefined {
  if (typeof value !== 'string') return undefined;
  const text = value.slice(0, MAX_MESSAGE_CHARS).toWellFormed().replaceAll(/\s+/g, ' ').trim();
  return text === '' ? undefined : text;
}

function name(value: unknown): string | undefined {
  if (typeof value === 'number') return String(value);
  return messageText(value)?.slice(0, MAX_NAME_CHARS);
}

/** FastAPI names the member as `["body", "stream_options"]`. */
function pathOf(loc: unknown): string | undefined {
  if (!Array.isArray(loc)) return undefined;
  return name(loc.filter((step, index) => index > 0 || step !== 'body').join('.'));
}

function statusOf(value: unknown): number | undefined {
  const status = typeof value === 'string' && /^\d{3}$/.test(value) ? Number(value) : value;
  return typeof status === 'number' && Number.isInteger(status) && status >= 400 && status < 600
    ? status
    : undefined;
}

const MAX_LOGGED_CHARS = 500;
const HIDDEN = '[hidden]';
/** How many characters of the start of a prompt identify a quotation of it. */
const QUOTE_CHARS = 16;
const SECRETS: readonly RegExp[] = [
  // API keys by their usual prefixes, JSON web tokens, long hexadecimal or base64 strings.
  /\b(?:sk|pk|rk|ck|gsk|hf|ghp|xai|nvapi|r8|key|tok)[-_][\w*-]{6,}/gi,
  /\bAIza[\w-]{20,}/g,
  /\beyJ[\w-]{8,}(?:\.[\w-]+)*/g,
  /\b(?=\w*\d)[A-Za-z0-9+/]{32,}={0,2}/g,
  /\b(?:Bearer|Basic)\s+[\w.~+/=-]{6,}/gi,
  // user:password@ in a URL, query parameters, members of quoted JSON.
  /(?<=:\/\/)[^\s/@]+(?=@)/g,
  /(?<=\b(?:api[-_ ]?key|access[-_ ]?token|token|secret|password|authorization|key|sig)["']?\s*[=:]\s*["']?)[^\s"'&,;}]+/gi,
];

export interface Hidden {
  /** Keys and passwords. */
  readonly secrets: readonly string[];
  /** What the caller wrote. */
  readonly prompts: readonly string[];
}

/** The fields of a log line for an error, cut, without secrets and quotations of the prompt. */
export function loggedError(
  { message, code, type, param }: ReportedError,
  hidden: Hidden,
): Record<string, string | undefined> {
  const show = (text: string | undefined) =>
    text && hideSecrets(text, hidden).slice(0, MAX_LOGGED_CHARS).toWellFormed();
  return {
    upstream_error_code: show(code),
    upstream_error_type: show(type),
    upstream_error_param: show(param),
    upstream_error_message: show(message),
  };
}

function hideSecrets(text: string, { secrets, prompts }: Hidden): string {
  let safe = text;
  for (const secret of secrets) if (secret.length >= 4) safe = safe.replaceAll(secret, HIDDEN);
  for (const prompt of prompts) safe = hideQuotation(safe, prompt.replaceAll(/\s+/g, ' ').trim());
  for (const pattern of SECRETS) safe = safe.replaceAll(pattern, HIDDEN);
  return safe;
}

/** Hides a short prompt, or everything from a quotation of the start of a long prompt on, also inside JSON. */
function hideQuotation(text: string, prompt: string): string {
  const start = prompt.slice(0, QUOTE_CHARS);
  if (start.length < 4) return text;
  const forms = [start, JSON.stringify(start).slice(1, -1)];
  if (prompt.length <= QUOTE_CHARS) {
    return forms.reduce((safe, form) => safe.replaceAll(form, HIDDEN), text);
  }
  const found = forms.map((form) => text.indexOf(form)).filter((at) => at >= 0);
  return found.length === 0 ? text : text.slice(0, Math.min(...found)) + HIDDEN;
}
