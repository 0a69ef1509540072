/** Finds names that are meant as settings but are none. */
import { settingsSchema } from './settings.ts';

const NAMES: readonly string[] = settingsSchema.keyof().options;
const KNOWN: ReadonlySet<string> = new Set(NAMES);

/** `OPENAI_`, `DB_`, …: what the names of several words begin with. */
const PREFIXES: ReadonlySet<string> = new Set(NAMES.flatMap((name) => prefixOf(name) ?? []));

/** Variables that Kubernetes sets for each service. */
const SERVICE_LINK = /_SERVICE_(HOST|PORT)(_|$)|_PORT(_|$)/;

export function isSetting(name: string): boolean {
  return KNOWN.has(name);
}

/** One line for each name in a `.env` file that is no setting but has one of our prefixes, or is nearly one. */
export function unknownInFile(file: string, settings: Readonly<Record<string, string>>): string[] {
  return Object.keys(settings).flatMap((name) => {
    if (KNOWN.has(name)) return [];
    const prefix = prefixOf(normalized(name));
    const nearest = nearestName(name);
    if (nearest === undefined && !(prefix !== undefined && PREFIXES.has(prefix))) return [];
    return [`${name} in ${file} is not a setting: ${hint(nearest, prefix)}`];
  });
}

/**
 * Names with our prefixes in the environment of the process, which other programs share: `errors` for those that are
 * nearly a setting, `unknown` for the others.
 */
export function unknownInEnvironment(environment: object): { errors: string[]; unknown: string[] } {
  const found: { errors: string[]; unknown: string[] } = { errors: [], unknown: [] };
  for (const name of Object.keys(environment)) {
    const prefix = prefixOf(name);
    if (KNOWN.has(name) || prefix === undefined || !PREFIXES.has(prefix)) continue;
    const nearest = nearestName(name);
    if (nearest !== undefined) found.errors.push(`${name} is not a setting: ${hint(nearest, prefix)}`);
    else if (!SERVICE_LINK.test(name)) found.unknown.push(name);
  }
  return found;
}

function hint(nearest: string | undefined, prefix = ''): string {
  if (nearest !== undefined) return `did you mean ${nearest}?`;
  const alike = NAMES.filter((name) => name.startsWith(prefix)).join(', ');
  return `those that begin with ${prefix} are ${alike}; .env.example lists all`;
}

function prefixOf(name: string): string | undefined {
  const end = name.indexOf('_') + 1;
  return end > 1 ? name.slice(0, end) : undefined;
}

function normalized(name: string): string {
  return name.toUpperCase().replace(/\W/g, '_');
}

/** The setting that differs in at most two letters, or one in a short name. */
function nearestName(name: string): string | undefined {
  const wanted = normalized(name).replaceAll('_', '');
  const most = wanted.length < 8 ? 1 : 2;
  const ranked = NAMES.map((known) => ({ known, distance: editDistance(wanted, known.replaceAll('_', '')) }));
  const [best] = ranked.sort((a, b) => a.distance - b.distance);
  return best && best.distance <= most ? best.known : undefined;
}

/** Insertions, deletions, replacements and swaps of neighbours that turn one text into the other. */
function editDistance(from: string, to: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let row = 1; row <= from.length; row++) {
    const next = [row];
    for (let column = 1; column <= to.length; column++) {
      const same = from[row - 1] === to[column - 1];
      const swapped = row > 1 && from[row - 1] === to[column - 2] && from[row - 2] === to[column - 1];
      next[column] = Math.min(
        (last[column] ?? 0) + 1,
        (next[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (same ? 0 : 1),
        swapped ? (beforeLast[column - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY,
      );
    }
    [beforeLast, last] = [last, next];
  }
  return last[to.length] ?? 0;
}
