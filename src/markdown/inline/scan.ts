import { END, MORE, type Source } from './source.ts';

/**
 * A reader of arriving text. It yields where the available text ends and continues from there, so that nothing is
 * read twice, however small the pieces are.
 */
export type Scan<T> = Generator<undefined, T, undefined>;

/** Strings that the rest of the block does not contain, so that the search is not repeated. */
export type Absent = Set<string>;

/** The code unit at a position; yields until it is available. END after the last one. */
export function* peek(source: Source, at: number): Scan<number> {
  let code = source.at(at);
  while (code === MORE) {
    yield;
    code = source.at(at);
  }
  return code;
}

/** The first position from `at` on whose code unit is not in the class (END is in no class). */
export function* skip(source: Source, at: number, isMember: (code: number) => boolean): Scan<number> {
  for (let position = at; ; ) {
    const code = source.at(position);
    if (code === MORE) {
      yield;
      continue;
    }
    if (code === END || !isMember(code)) return position;
    position++;
  }
}

/** The position after the first `needle` that starts at `from` or later; -1 if the block has none. */
export function* find(source: Source, from: number, needle: string, absent: Absent): Scan<number> {
  if (absent.has(needle)) return -1;
  const last = needle.length - 1;
  const lastCode = needle.charCodeAt(last);
  for (let position = from + last; ; ) {
    const code = source.at(position);
    if (code === MORE) {
      yield;
      continue;
    }
    if (code === END) break;
    if (code === lastCode && matches(source, position - last, needle)) return position + 1;
    position++;
  }
  absent.add(needle);
  return -1;
}

function matches(source: Source, at: number, needle: string): boolean {
  for (let i = 0; i < needle.length; i++) {
    if (source.at(at + i) !== needle.charCodeAt(i)) return false;
  }
  return true;
}
