/** What is wrong with the environment, and what is worth a line in the log. */
import { ConfigError, type Environment } from './environment.ts';
import { unknownInEnvironment } from './setting-names.ts';
import { SECRET_SETTINGS, type Settings, settingsSchema } from './settings.ts';
import { withoutSecrets } from './urls.ts';

function shown(name: string, text: string): string {
  return SECRET_SETTINGS.has(name) ? 'a value that is not shown here' : JSON.stringify(printable(name, text));
}

function printable(name: string, text: string): string {
  return /_URL$|_ORIGINS$/.test(name) ? text.split(',').map(withoutSecrets).join() : text;
}

/** @throws ConfigError with one line per error */
export function readSettings(environment: Environment): Settings {
  const { errors } = unknownInEnvironment(environment);
  const parsed = settingsSchema.safeParse(environment);
  for (const issue of parsed.error?.issues ?? []) {
    const name = String(issue.path[0]);
    errors.push(`${name} ${issue.message}; it is ${shown(name, String(environment[name]))}`);
  }
  if (!parsed.success || errors.length > 0) throw new ConfigError(errors);
  return parsed.data;
}

/** Rules between settings: one line per error. */
export function crossErrors(settings: Settings, sqlite: boolean): string[] {
  const errors: string[] = [];
  if (settings.DB_POOL_MIN > settings.DB_POOL_MAX) {
    errors.push(
      `DB_POOL_MIN must be at most DB_POOL_MAX, which is ${settings.DB_POOL_MAX}; it is ${settings.DB_POOL_MIN}`,
    );
  }
  if (sqlite && (settings.WEB_CONCURRENCY ?? 1) > 1) {
    errors.push(
      `WEB_CONCURRENCY must be 1 on SQLite (set DATABASE_URL to MySQL for more); it is ${settings.WEB_CONCURRENCY}`,
    );
  }
  const fallback = settings.OPENAI_FALLBACK_BASE_URL ?? settings.OPENAI_FALLBACK_API_KEY;
  if (settings.OPENAI_FALLBACK_MODEL !== undefined && fallback === undefined) {
    errors.push('OPENAI_FALLBACK_MODEL needs OPENAI_FALLBACK_BASE_URL or OPENAI_FALLBACK_API_KEY');
  }
  if (fallback !== undefined && (settings.OPENAI_BASE_URL ?? settings.OPENAI_API_KEY) === undefined) {
    errors.push('OPENAI_FALLBACK_BASE_URL needs a first model server: set OPENAI_BASE_URL or OPENAI_API_KEY');
  }
  return errors;
}

/** Those that differ from their defaults, secrets masked. */
export function changedSettings(environment: Environment, settings: Settings): Record<string, string> {
  const defaults = settingsSchema.parse({});
  const changed: Record<string, string> = {};
  for (const name of settingsSchema.keyof().options) {
    const same = JSON.stringify(settings[name]) === JSON.stringify(defaults[name]);
    if (!same)
      changed[name] = SECRET_SETTINGS.has(name) ? '(set)' : printable(name, String(environment[name]));
  }
  return changed;
}

/** One sentence per warning. */
export function warningsOf(environment: Environment, settings: Settings, loopback: boolean): string[] {
  const warnings: string[] = [];
  const { unknown } = unknownInEnvironment(environment);
  if (unknown.length > 0) warnings.push(`environment variables ignored, not settings: ${unknown.join(', ')}`);
  if (!loopback && settings.AUTH === 'off') {
    warnings.push(`AUTH=off on ${settings.HOST}: anyone who can reach the port can read and write all data`);
  }
  return warnings;
}

/** The variables of Node's `NODE_USE_ENV_PROXY`. */
export const PROXY_VARIABLES = ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY'].flatMap((name) => [
  name,
  name.toLowerCase(),
]);

/** One line per error. */
export function proxyErrors(environment: Environment): string[] {
  if (environment.NODE_USE_ENV_PROXY !== '1') return [];
  return PROXY_VARIABLES.filter((name) => {
    const address = environment[name] ?? '';
    if (address === '' || /^no_/i.test(name)) return false;
    return !URL.canParse(address) || !/^https?:$/.test(new URL(address).protocol);
  }).map((name) => `${name} must be an http:// or https:// URL, because NODE_USE_ENV_PROXY is 1`);
}
