/**
 * Checks that no log contains keys, passwords, questions or replies. The output of all servers of a test run is copied
 * to a folder, whose path is in TEST_LOG_DIR, together with the planted secrets that the logs must not contain. At the
 * end of the run all of it is searched. Without that variable, as when a file is run alone, nothing is copied.
 */
import { openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';

const VARIABLE = 'TEST_LOG_DIR';
const LOG = '.log';
const OUTPUT = 'run.log';
const PLANTED = '.planted';

/** Every question and reply of story.ts contains this word. */
export const SECRET_WORD = 'Geheimnisträger';

type Pattern = readonly [kind: string, pattern: RegExp];

/** Patterns of secrets that no output may contain. */
const ALWAYS: readonly Pattern[] = [
  ['an API key', /\bck_[\dA-Za-z]{8}_[\dA-Za-z]{6}/],
  ['a key of the model server', /\bsk-[\w-]{6}/],
  ['a question or a reply', new RegExp(SECRET_WORD)],
];

/** Patterns that logs may not contain, but the output of the test runner may, as in the name of a test. */
const IN_LOGS: readonly Pattern[] = [
  ...ALWAYS,
  // Except `pass` and `password`, which messages show as an example.
  ['a password in a URL', /(?<=\b[a-z][a-z\d+.-]*):\/\/[^\s/:@"']*:(?!pass(?:word)?@)[^\s/:@"'[]+@/i],
  ['a password', /hunter2/],
];

/** Shorter texts can be in a log by chance, so they are not searched for. */
const LEAST_TEXT = 20;
const LEAST_SECRET = 6;
/** Only this much of the beginning of a text is searched for. */
const MOST = 64;
const WARNING = /"level":"(?:warn|error|fatal)"/;
const MOST_WARNINGS = 20;

const planted = z.object({ kind: z.string(), text: z.string() });

export interface Leak {
  readonly file: string;
  /** The number of the line, from 1. */
  readonly line: number;
  /** The kind of the secret; never the secret itself. */
  readonly kind: string;
}

export interface Search {
  readonly leaks: readonly Leak[];
  readonly files: number;
  readonly characters: number;
  readonly planted: number;
}

/** Names the files of this process: the test file that it runs, and its id. */
const here = `${basename(process.argv[1] ?? '')}-${process.pid}`;
const open = new Map<string, number>();
const known = new Set<string>();

function append(name: string, text: string): void {
  const folder = process.env[VARIABLE];
  if (!folder) return;
  let file = open.get(name);
  if (file === undefined) {
    file = openSync(join(folder, name), 'a');
    open.set(name, file);
  }
  writeSync(file, text);
}

/** The last warnings of the servers of this process, printed after a failed test. */
export const recentWarnings: string[] = [];

/** Records the output of a server, in whole lines. */
export function recordLog(lines: string): void {
  recentWarnings.push(...lines.split('\n').filter((line) => WARNING.test(line)));
  recentWarnings.splice(0, recentWarnings.length - MOST_WARNINGS);
  append(here + LOG, lines.endsWith('\n') ? lines : `${lines}\n`);
}

/** From this call on, records the standard output and error of this process, the test runner. */
export function recordOutput(): void {
  for (const stream of [process.stdout, process.stderr]) {
    const write = stream.write.bind(stream);
    stream.write = (piece: string | Uint8Array, ...rest: never[]) => {
      append(OUTPUT, typeof piece === 'string' ? piece : Buffer.from(piece).toString());
      return write(piece, ...rest);
    };
  }
}

/** Plants a question or a reply, unless it is short or contains {@link SECRET_WORD}, which is always searched for. */
export function plantText(text: string): void {
  if (text.length >= LEAST_TEXT && !text.includes(SECRET_WORD)) plant('a question or a reply', text);
}

/** Plants the question in the body of a request, if there is one. */
export function plantMessage(body: unknown): void {
  const { data } = z.object({ message: z.string() }).safeParse(body);
  if (data) plantText(data.message);
}

/** Plants the secrets in the settings of a server. */
export function plantSettings(env: Readonly<Record<string, string | undefined>>): void {
  const values = ['OPENAI_API_KEY', 'LINK_SECRET'].flatMap((name) => env[name]?.split(',') ?? []);
  const headers = z.record(z.string(), z.string()).safeParse(parsed(env.OPENAI_HEADERS ?? ''));
  values.push(...Object.values(headers.data ?? {}));
  for (const name of ['DATABASE_URL', 'SMTP_URL', 'REDIS_URL']) {
    const password = URL.parse(env[name] ?? '')?.password ?? '';
    values.push(password, decoded(password));
  }
  for (const value of values.map((each) => each.trim())) {
    if (value.length >= LEAST_SECRET) plant('a secret of the settings', value);
  }
}

function plant(kind: string, text: string): void {
  const beginning = text.slice(0, MOST).toWellFormed();
  if (!process.env[VARIABLE] || known.has(beginning)) return;
  known.add(beginning);
  append(here + PLANTED, `${JSON.stringify({ kind, text: beginning })}\n`);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * Searches all recorded output. The texts that a test file planted are searched for in the logs of its servers, the
 * patterns of secrets everywhere.
 */
export function searchLogs(folder: string): Search {
  const names = readdirSync(folder).sort();
  const leaks: Leak[] = [];
  let characters = 0;
  let count = 0;
  const logs = names.filter((name) => name.endsWith(LOG));
  for (const file of logs) {
    const text = readFileSync(join(folder, file), 'utf8');
    const own = file.replace(LOG, PLANTED);
    const needles = names.includes(own) ? readPlanted(join(folder, own)) : [];
    characters += text.length;
    count += needles.length;
    leaks.push(...leaksOf(file, text, needles));
  }
  return { leaks, files: logs.length, characters, planted: count };
}

type Needle = z.output<typeof planted>;

function readPlanted(path: string): Needle[] {
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines.filter(Boolean).map((line) => planted.parse(JSON.parse(line)));
}

function leaksOf(file: string, text: string, needles: readonly Needle[]): Leak[] {
  const tests: (readonly [string, (part: string) => boolean])[] = [
    ...(file === OUTPUT ? ALWAYS : IN_LOGS).map(
      ([kind, pattern]) => [kind, (part: string) => pattern.test(part)] as const,
    ),
    ...needles.map(({ kind, text: secret }) => {
      const quoted = JSON.stringify(secret).slice(1, -1);
      return [kind, (part: string) => part.includes(secret) || part.includes(quoted)] as const;
    }),
  ];
  return tests
    .filter(([, isIn]) => isIn(text))
    .flatMap(([kind, isIn]) =>
      text.split('\n').flatMap((line, index) => (isIn(line) ? [{ file, line: index + 1, kind }] : [])),
    );
}
