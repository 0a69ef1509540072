/** What the filter must find, found by trying every word at every place. */
import { codePointOf, type Fold, Kind, kindOf } from '../../../src/filter/words/fold.ts';
import { MAX_GAP } from '../../../src/filter/words/tracker.ts';

interface Place {
  readonly text: string;
  readonly symbol: string | null;
  readonly isMark: boolean;
  /** Characters that do not count since the last one that does. */
  readonly gap: number;
}

/** The code points of a text, each with what it counts as. */
function placesOf(text: string, fold: Fold): Place[] {
  let afterWide = false;
  let gap = 0;
  return Array.from(text, (char) => {
    const value = fold.of(char.codePointAt(0) ?? 0);
    const kind = kindOf(value);
    const isMark = kind === Kind.mark;
    if (isMark || (kind === Kind.space && afterWide)) return { text: char, symbol: null, isMark, gap: ++gap };
    const place = { text: char, symbol: String.fromCodePoint(codePointOf(value)), isMark, gap };
    afterWide = kind === Kind.wide;
    gap = 0;
    return place;
  });
}

/** Places from `start` on that spell the word, or that spell a part of it up to the end of the text. */
function spells(
  places: readonly Place[],
  start: number,
  word: string,
): { whole: boolean; end: number } | null {
  const symbols = Array.from(word);
  let found = 0;
  for (let at = start; at < places.length; at++) {
    const place = places[at];
    if (place?.symbol == null) {
      if (found === 0 || (place?.gap ?? 0) > MAX_GAP) return null;
      continue;
    }
    if (place.symbol !== symbols[found]) return null;
    found++;
    if (found === symbols.length) return { whole: true, end: at + 1 };
  }
  return found === 0 ? null : { whole: false, end: places.length };
}

export interface Expected {
  /** The text with its words masked. */
  readonly text: string;
  readonly hits: readonly { start: number; end: number }[];
  /** Of the masked text, what cannot change by what follows. */
  readonly decided: string;
}

export function expected(text: string, words: readonly string[], fold: Fold): Expected {
  const places = placesOf(text, fold);
  const folded = words.map((word) => fold.word(word));
  const hit = places.map(() => false);
  const ranges: { start: number; end: number }[] = [];
  let held = places.length;
  for (const start of places.keys()) {
    for (const word of folded) {
      const match = spells(places, start, word);
      if (match && !match.whole) held = Math.min(held, start);
      if (!match?.whole) continue;
      let end = match.end;
      while (places[end]?.isMark) end++;
      hit.fill(true, start, end);
      ranges.push({ start, end });
    }
  }
  while (hit[held]) held++;
  const masked = places.map((place, at) => (hit[at] ? '*' : place.text));
  return { text: masked.join(''), hits: united(ranges, places), decided: masked.slice(0, held).join('') };
}

function united(ranges: { start: number; end: number }[], places: readonly Place[]) {
  const offsets = [0];
  for (const place of places) offsets.push((offsets.at(-1) ?? 0) + place.text.length);
  const merged: { start: number; end: number }[] = [];
  for (const range of ranges.sort((one, other) => one.start - other.start)) {
    const last = merged.at(-1);
    if (last && range.start < last.end) last.end = Math.max(last.end, range.end);
    else merged.push({ ...range });
  }
  return merged.map(({ start, end }) => ({ start: offsets[start] ?? -1, end: offsets[end] ?? -1 }));
}
