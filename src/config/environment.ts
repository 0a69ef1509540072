/** Reads the settings of the process and of its `.env` files. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'dotenv';
import { errorCode } from '../domain/errors.ts';
import { isSetting, unknownInFile } from './setting-names.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

/** One line per error; `message` is all of them. */
export class ConfigError extends Error {
  constructor(errors: readonly string[]) {
    super(errors.join('\n'));
    this.name = 'ConfigError';
  }
}

/**
 * The process's environment over `.env.<NODE_ENV>` over `.env`, both read from `directory` where they exist. An empty
 * value counts as unset in all three, so the next one applies.
 * @throws ConfigError when a file cannot be read as what it is, or has a setting that does not exist
 */
export function loadEnvironment(
  directory = process.cwd(),
  environment: Environment = process.env,
): Record<string, string | undefined> {
  const merged: Record<string, string | undefined> = {};
  const errors: string[] = [];
  for (const file of ['.env', ...(environment.NODE_ENV ? [`.env.${environment.NODE_ENV}`] : [])]) {
    const text = readText(join(directory, file), file);
    const settings = parse(text);
    errors.push(...mistakesIn(file, text, settings));
    Object.assign(merged, withoutEmpty(settings));
  }
  if (errors.length > 0) throw new ConfigError(errors);
  return Object.assign(merged, withoutEmpty(environment));
}

export function withoutEmpty(environment: Environment): Record<string, string> {
  return Object.fromEntries(
    Object.entries(environment).flatMap(([name, text]) => (text ? [[name, text]] : [])),
  );
}

/** Empty where there is no such file. @throws ConfigError */
function readText(path: string, file: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT') return '';
    const reason = code === 'EISDIR' ? 'it is a folder' : (code ?? String(error));
    throw new ConfigError([`${file} cannot be read: ${reason}`]);
  }
  const text = new TextDecoder(encodingOf(bytes)).decode(bytes);
  if (!text.includes('\0')) return text;
  throw new ConfigError([`${file} contains NUL bytes: save it as UTF-8`]);
}

/** PowerShell 5 writes UTF-16. */
function encodingOf(bytes: Buffer): string {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return 'utf-16le';
  return bytes[0] === 0xfe && bytes[1] === 0xff ? 'utf-16be' : 'utf-8';
}

function mistakesIn(file: string, text: string, settings: Readonly<Record<string, string>>): string[] {
  const errors = unknownInFile(file, settings);
  for (const [name, value] of Object.entries(settings)) {
    if (value.includes('\uFFFD'))
      errors.push(`${name} in ${file} is not valid UTF-8: save the file as UTF-8`);
  }
  for (const line of text.split(/\r\n?|\n/)) {
    const cut = cutName(line, settings);
    if (cut !== undefined) {
      errors.push(`${cut} in ${file} has a # outside quotes, which starts a comment: quote the value`);
    }
    const [, name = ''] = UNREAD.exec(line) ?? [];
    if (isSetting(name) && settings[name] === undefined) {
      errors.push(`${name} in ${file} is not read: write ${name}=value`);
    }
  }
  return errors;
}

/** Lines of other languages: `NAME value`, `set NAME=value`, `$env:NAME = "value"`. */
const UNREAD = /^\s*(?:setx?\s+|\$env:|-\s*)?([A-Z]+_[A-Z_]+)\b/;
const UNQUOTED = /^\s*(?:export\s+)?([\w.-]+)(?:\s*=|:\s)[^\S\r\n]*([^#]*)#(.?)/;

/** The name of the setting whose value the parser ends at a `#` that looks like a part of it. */
function cutName(line: string, settings: Readonly<Record<string, string>>): string | undefined {
  const [, name = '', before = '', next = ''] = UNQUOTED.exec(line) ?? [];
  const isComment = before === '' ? /\s#/.test(line) || /^\s?$/.test(next) : /\s$/.test(before);
  return name !== '' && !isComment && settings[name] === before.replace(/^(["'`])(.*)\1$/, '$2')
    ? name
    : undefined;
}
