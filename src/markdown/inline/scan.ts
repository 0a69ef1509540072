import { END, MORE, type Source } from './source.ts';

/**
 * A reader of text that is still arriving: it stops (yields) where the text ends for now and goes on from there,
 * so that nothing is read twice however small the pieces are.
 */
export type Scan<T> = Generator<undefined, T, undefined>;

/** What was looked for up to the end of the block in vain; looking again would find nothing either. */
export type Unfound = Set<string>;

/** The code unit at a position, waited for; END after the last one. */
export function* peek(source: Source, at: number): Scan<number> {
  let code = source.at(at);
  while (code === MORE) {
    yield;
    code = source.at(at);
  }
  return code;
}

/** The first position from `at` on whose code unit is not of the class (END is of no class). */
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

/** The position after the first `needle` that starts at `from` or later; -1 when the block has none. */
export function* find(source: Source, from: number, needle: string, unfound: Unfound): Scan<number> {
  if (unfound.has(needle)) return -1;
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
  unfound.add(needle);
  return -1;
}

function matches(source: Source, at: number, needle: string): boolean {
  for (let i = 0; i < needle.length; i++) {
    if (source.at(at + i) !== needle.charCodeAt(i)) return false;
  }
  return true;
}
