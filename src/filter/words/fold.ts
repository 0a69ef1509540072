import traditionalToSimplified from 'opencc-js/dict/TSCharacters';

/** How a character is compared; docs/content-filter.md has the rules. */
export const Kind = {
  /** Compared by its folded form. */
  symbol: 0,
  /** Compared like a symbol; spaces after it are skipped, because CJK text is written without them. */
  wide: 1,
  /** Compared like a space. */
  space: 2,
  /** Skipped; belongs to the character before it. */
  mark: 3,
} as const;

const KIND_SHIFT = 24;
const CODE_POINT = 0xff_ffff;
const PAGE_BITS = 8;

const INVISIBLE = /^(?:\p{Default_Ignorable_Code_Point}|(?=[\p{Mn}\p{Me}])\p{Script=Inherited})$/u;
/** In Japanese these make a different letter, not an accented one. */
const VOICE_MARK = /^[\u3099\u309a]$/;
const WIDE = /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Bopomofo}]$/u;
const SPACE = /^\p{Zs}$/u;

/**
 * Maps each code point to at most one folded code point, so that positions in folded text are positions in the
 * original.
 */
export class Fold {
  readonly #simplified: ReadonlyMap<string, string>;
  /** Filled on first use: of a million code points, a text has a few thousand. */
  readonly #pages: (Uint32Array | undefined)[] = [];

  constructor() {
    this.#simplified = new Map(
      traditionalToSimplified.split('|').map((pair): [string, string] => {
        const [traditional = '', simplified = ''] = pair.split(' ');
        return [traditional, simplified];
      }),
    );
  }

  /** The folded code point and its kind: see {@link codePointOf} and {@link kindOf}. */
  of(codePoint: number): number {
    const page = this.#pages[codePoint >>> PAGE_BITS] ?? this.#fill(codePoint >>> PAGE_BITS);
    return page[codePoint & ((1 << PAGE_BITS) - 1)] ?? 0;
  }

  /** The folded form of a word, without skipped characters. */
  word(text: string): string {
    let folded = '';
    let afterWide = false;
    for (const char of text) {
      const value = this.of(char.codePointAt(0) ?? 0);
      const kind = kindOf(value);
      if (kind === Kind.mark || (kind === Kind.space && afterWide)) continue;
      folded += String.fromCodePoint(codePointOf(value));
      afterWide = kind === Kind.wide;
    }
    return folded;
  }

  #fill(number: number): Uint32Array {
    const first = number << PAGE_BITS;
    const page = Uint32Array.from({ length: 1 << PAGE_BITS }, (_, index) =>
      this.#value(String.fromCodePoint(first + index)),
    );
    this.#pages[number] = page;
    return page;
  }

  #value(char: string): number {
    if (isMark(char)) return Kind.mark << KIND_SHIFT;
    const folded = this.#simplify(caseless(withoutAccents(one(char.normalize('NFKC'), char))));
    return (folded.codePointAt(0) ?? 0) | (kindOfFolded(folded) << KIND_SHIFT);
  }

  #simplify(char: string): string {
    const simplified = this.#simplified.get(char);
    return simplified === undefined || simplified === char ? char : this.#simplify(simplified);
  }
}

export function codePointOf(value: number): number {
  return value & CODE_POINT;
}

export function kindOf(value: number): number {
  return value >>> KIND_SHIFT;
}

function kindOfFolded(folded: string): number {
  if (SPACE.test(folded)) return Kind.space;
  return WIDE.test(folded) ? Kind.wide : Kind.symbol;
}

function isMark(char: string): boolean {
  return INVISIBLE.test(char) && !VOICE_MARK.test(char);
}

function withoutAccents(char: string): string {
  const [base = char, ...marks] = char.normalize('NFD');
  return marks.every(isMark) ? base : char;
}

/** Simple case folding through the capital letter, which `σ` and `ς`, or `k` and the Kelvin sign, share. */
function caseless(char: string): string {
  const upper = one(char.toUpperCase(), char);
  return one(upper.toLowerCase(), upper);
}

/** The result of a mapping if it is one code point, else the original. */
function one(result: string, original: string): string {
  const codePoint = result.codePointAt(0) ?? 0;
  return result.length === (codePoint > 0xffff ? 2 : 1) ? result : original;
}
