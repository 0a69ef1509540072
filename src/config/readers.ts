/** How one setting is read: text in, value out, and a sentence for what is allowed. */
import { validateHeaderName, validateHeaderValue } from 'node:http';
import { isIP } from 'node:net';
import { validate as isCronPattern } from 'node-cron';
import { compile as compileSubnets } from 'proxy-addr';
import { z } from 'zod';

/** A sentence about one text that is not allowed; its subject is the name of the setting. */
class Refusal {
  readonly message: string;
  constructor(message: string) {
    this.message = message;
  }
}

export const refusal = (message: string) => new Refusal(message);

/** A setting whose text `read` turns into a value; undefined means "not allowed", and `allowed` says what is. */
export function setting<T>(allowed: string, read: (text: string) => T | Refusal | undefined) {
  return z.string().transform((text, context): T => {
    const value = read(text);
    if (value !== undefined && !(value instanceof Refusal)) return value;
    const message = value instanceof Refusal ? value.message : `must be ${allowed}`;
    context.addIssue({ code: 'custom', message });
    return z.NEVER;
  });
}

export const integer = (min: number, max: number) =>
  setting(`a whole number from ${min} to ${max}`, (text) => {
    const value = Number(text);
    return /^\d+$/.test(text) && value >= min && value <= max ? value : undefined;
  });

export const decimal = (min: number, max: number) =>
  setting(`a number from ${min} to ${max}`, (text) => {
    const value = Number(text);
    return /^\d+(\.\d+)?$/.test(text) && value >= min && value <= max ? value : undefined;
  });

export const oneOf = <const T extends string>(...values: T[]) =>
  setting(`one of ${values.join(', ')}`, (text) => values.find((value) => value === text));

export const text = () => setting('text of one line', (value) => (/\p{Cc}/u.test(value) ? undefined : value));

export const prose = () => setting('text', (value) => value);

/** What an Authorization header can carry. */
export const apiKey = () =>
  setting('a key of printable ASCII characters without blanks or quotes', (value) =>
    /^[!#-&(-_a-~]+$/.test(value) ? value : undefined,
  );

export const listenAddress = () =>
  setting('an address or name of this machine without port, such as 127.0.0.1', (value) => {
    const host = value.toLowerCase().replace(/^\[(.*)\]$/, '$1');
    return isIP(host) !== 0 || HOST_NAME.test(host) ? host : undefined;
  });

export const mailAddress = () =>
  setting('an address such as chat@example.com or Chat <chat@example.com>', (value) =>
    /^(?:[^<>@\p{Cc}]*<[^<>@\s]+@[^<>@\s]+>|[^<>@\s]+@[^<>@\s]+)$/u.test(value) ? value : undefined,
  );

const UNITS: Record<string, number> = { '': 1, b: 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3 };

/** `65536`, `64kb`, `64 MiB`: units are powers of 1024, in any case. */
export const bytes = (min: number, max: number) =>
  setting(`a size in bytes, or with kb, mb or gb (1 kb = 1024), from ${min} to ${max} bytes`, (value) => {
    const match = /^(\d+(?:\.\d+)?)\s*(?:(b)|([kmg])(?:i?b)?)?$/i.exec(value);
    if (!match) return undefined;
    const size = Math.floor(Number(match[1]) * (UNITS[(match[3] ?? '').toLowerCase()] ?? 1));
    return size >= min && size <= max ? size : undefined;
  });

export const onOff = () =>
  setting(
    'on or off',
    (value) => ({ on: true, true: true, 1: true, off: false, false: false, 0: false })[value],
  );

const SECRET_MIN = 24;

export const secrets = () =>
  setting(
    `a secret of at least ${SECRET_MIN} characters, or several with commas between: the one to sign with, then older ones`,
    (value) => {
      const list = value.split(',').map((part) => part.trim());
      return list.every((part) => part.length >= SECRET_MIN) ? list : undefined;
    },
  );

const HOST_NAME = /^(?=.{1,253}$)[a-z\d_-]+(?:\.[a-z\d_-]+)*$|^\[[\da-f:.]+\]$/;

export const hostNames = () =>
  setting('names of hosts without ports, separated by commas, such as chat.example.com', (value) => {
    const list = value.split(',').map((part) => part.trim().toLowerCase());
    return list.every((part) => HOST_NAME.test(part)) ? list : undefined;
  });

/** The transport sets these. */
const FRAMING = /^(?:connection|content-length|expect|keep-alive|transfer-encoding|upgrade)$/i;

export const headers = () =>
  setting(
    'a JSON object of request headers with values of Latin-1 characters, such as {"x-team":"blue"}',
    (value) => {
      try {
        const parsed = z.record(z.string(), z.string()).parse(JSON.parse(value));
        for (const [name, text] of Object.entries(parsed)) {
          validateHeaderName(name);
          validateHeaderValue(name, text);
          if (FRAMING.test(name)) return refusal(`must not contain ${name}, which the server sets`);
        }
        return parsed;
      } catch {
        return undefined;
      }
    },
  );

export const proxies = () =>
  setting(
    'a number of hops (0 to 32) or subnets separated by commas, such as 10.0.0.0/8,loopback; never true',
    (value) => {
      if (/^\d+$/.test(value)) return Number(value) <= 32 ? Number(value) : undefined;
      const list = value.split(',').map((part) => part.trim());
      try {
        // The parser that Express uses for "trust proxy".
        compileSubnets(list);
        return list;
      } catch {
        return undefined;
      }
    },
  );

export const cron = () =>
  setting('a cron pattern such as 17 * * * *', (value) => (isCronPattern(value) ? value : undefined));

/** What a model server does not accept, as the member of the request that stands for it. */
const REFUSED_MEMBERS = {
  no_stream_options: 'stream_options',
  no_temperature: 'temperature',
  max_completion_tokens: 'max_tokens',
} as const;

export const compatibility = () =>
  setting(`one or more of ${Object.keys(REFUSED_MEMBERS).join(', ')}, separated by commas`, (value) => {
    const names = new Map<string, RefusedMember>(Object.entries(REFUSED_MEMBERS));
    const members = value.split(',').map((part) => names.get(part.trim()));
    return members.every((member) => member !== undefined) ? members : undefined;
  });

type RefusedMember = (typeof REFUSED_MEMBERS)[keyof typeof REFUSED_MEMBERS];
