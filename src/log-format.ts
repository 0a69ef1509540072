/** Log lines for people at a terminal. */
import { prettyFactory } from 'pino-pretty';
import { z } from 'zod';

const requestLine = z.object({
  level: z.string(),
  time: z.string(),
  msg: z.enum(['request', 'unhandled error']),
  request_id: z.string(),
  method: z.string(),
  path: z.string(),
  status: z.number(),
  ms: z.number(),
  code: z.string().optional(),
  cause: z.string().optional(),
  client: z.string().optional(),
  model: z.string().optional(),
  cache: z.string().optional(),
  prompt_tokens: z.number().optional(),
  completion_tokens: z.number().optional(),
  first_token_ms: z.number().optional(),
  conversation_id: z.string().optional(),
  key_prefix: z.string().optional(),
});

type RequestLine = z.output<typeof requestLine>;

const RED = 31;
const YELLOW = 33;
const GREEN = 32;
/** Enough of an id to find its line again. */
const ID_CHARS = 8;

/** One line for a request, and one for any other message, with its fields; errors with their stack. */
export function createLineFormat(colors: boolean): (line: string) => string {
  const pretty = prettyFactory({
    colorize: colors,
    translateTime: 'SYS:HH:MM:ss',
    ignore: 'pid',
    singleLine: true,
  });
  return (line) => {
    const request = line.includes('"request_id"') ? requestLine.safeParse(JSON.parse(line)).data : undefined;
    return request?.msg === 'request' ? `${requestText(request, colors)}\n` : pretty(line);
  };
}

function requestText(line: RequestLine, colors: boolean): string {
  const { method, path, status, ms, code, cause, client, model, cache, first_token_ms: firstToken } = line;
  const fields = {
    cause,
    client,
    model,
    cache,
    tokens:
      line.completion_tokens === undefined ? undefined : `${line.prompt_tokens}+${line.completion_tokens}`,
    first: firstToken === undefined ? undefined : `${Math.round(firstToken)}ms`,
    conv: line.conversation_id?.slice(0, ID_CHARS),
    key: line.key_prefix,
    req: line.request_id.slice(0, ID_CHARS),
  };
  const shown = Object.entries(fields).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}`],
  );
  const outcome = colored(
    code === undefined ? `${status}` : `${status} ${code}`,
    colorOf(status, code),
    colors,
  );
  const time = new Date(line.time).toTimeString().slice(0, 8);
  return [time, method, path, outcome, `${Math.round(ms)}ms`, ...shown].join(' ');
}

/** A stream that fails has the status 200 and a code. */
function colorOf(status: number, code: string | undefined): number {
  if (status >= 500) return RED;
  return status >= 400 || code !== undefined ? YELLOW : GREEN;
}

function colored(text: string, color: number, colors: boolean): string {
  return colors ? `\u001b[${color}m${text}\u001b[39m` : text;
}
