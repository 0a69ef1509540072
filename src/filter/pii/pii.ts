/**
 * Masks for personal data of mainland China and for e-mail. All run in linear time, because each pattern is bounded in
 * length. Digits may be full-width.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';

const MASK = '*';
const VISIBLE_START = 3;
const VISIBLE_END = 4;

/** Optional `+86`, `0086` or `86`, optional separators as in `138-1234-5678`; not inside a longer number. */
const MOBILE =
  /(?<![0-9０-９]|[0-9]\.)((?:(?:\+|00)?86[- ]?)?)([1１][3-9３-９][0-9０-９][- ]?[0-9０-９]{4}[- ]?[0-9０-９]{4})(?![0-9０-９])/g;

/** Masks mobile numbers as `138****5678`: eleven digits from 13 to 19. The country code and separators stay. */
export function maskMobiles(text: string): string {
  return text.replace(MOBILE, (_whole, prefix: string, number: string) => prefix + maskMiddle(number));
}

const ID_CARD = /(?<![0-9０-９])[1-9１-９][0-9０-９]{16}[0-9０-９XxＸｘ](?![0-9０-９])/g;
const ID_WEIGHTS = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
const ID_CHECKS = '10X98765432';

/**
 * Masks identity card numbers as `110***********002X`: eighteen characters with a date of birth and the check character
 * of GB 11643 (ISO 7064, MOD 11-2).
 */
export function maskIdCards(text: string): string {
  return text.replace(ID_CARD, (number) => (isIdCard(number) ? maskMiddle(number) : number));
}

function isIdCard(number: string): boolean {
  const plain = number.normalize('NFKC').toUpperCase();
  const [year, month, day] = [plain.slice(6, 10), plain.slice(10, 12), plain.slice(12, 14)];
  const born = new Date(`${year}-${month}-${day}T00:00:00Z`);
  if (Number.isNaN(born.getTime()) || born.getUTCDate() !== Number(day)) return false;
  if (Number(year) < 1850 || Number(year) > 2099) return false;
  const sum = ID_WEIGHTS.reduce((total, weight, index) => total + weight * Number(plain[index]), 0);
  return plain[17] === ID_CHECKS[sum % 11];
}

const LOCAL = /[A-Za-z0-9._%+-]/;
const HOST = /[A-Za-z0-9.-]/;
const DOMAIN =
  /^(?=.{4,253}$)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]$/;

/** Masks ASCII e-mail addresses as `z***@example.com`. */
export function maskEmails(text: string): string {
  let output = '';
  let done = 0;
  for (let at = text.indexOf('@'); at >= 0; at = text.indexOf('@', at + 1)) {
    let start = at;
    while (start > done && LOCAL.test(text.charAt(start - 1))) start--;
    let end = at + 1;
    while (end < text.length && HOST.test(text.charAt(end))) end++;
    // A full stop at the end belongs to the sentence.
    while (end > at && /[.-]/.test(text.charAt(end - 1))) end--;
    if (start === at || end - at > 254 || !DOMAIN.test(text.slice(at + 1, end))) continue;
    output += `${text.slice(done, start + 1)}${MASK.repeat(3)}`;
    done = at;
  }
  return output + text.slice(done);
}

const DIGITS = /[0-9０-９]+/g;
const CARD_START = /[2-9２-９]/;
const CARD_MIN = 13;
const CARD_MAX = 19;
/** All groups of a card number but the last have at least four digits: 4-4-4-4, 4-6-5, 6-13. */
const GROUP_MIN = 4;

interface Group {
  readonly start: number;
  readonly end: number;
}

/**
 * Masks bank card numbers as `622************0123`: 13 to 19 digits that begin with 2 to 9 and pass the Luhn check
 * (ISO/IEC 7812), with optional single spaces or hyphens between groups of four or more.
 */
export function maskBankCards(text: string): string {
  let output = '';
  let done = 0;
  for (const groups of groupsOf(text)) {
    for (let first = 0; first < groups.length; ) {
      const last = cardEnd(text, groups, first);
      if (last < 0) {
        first++;
        continue;
      }
      const [start, end] = [groups[first]?.start ?? 0, groups[last]?.end ?? 0];
      output += text.slice(done, start) + maskMiddle(text.slice(start, end));
      done = end;
      first = last + 1;
    }
  }
  return output + text.slice(done);
}

/** Yields runs of digit groups that single spaces or hyphens separate. */
function* groupsOf(text: string): Generator<Group[]> {
  let groups: Group[] = [];
  for (const { index: start, 0: digits } of text.matchAll(DIGITS)) {
    const last = groups.at(-1);
    if (last && !(last.end === start - 1 && /[ -]/.test(text.charAt(last.end)))) {
      yield groups;
      groups = [];
    }
    groups.push({ start, end: start + digits.length });
  }
  yield groups;
}

/** The last group of the longest card number that begins with `first`; -1 if there is none. */
function cardEnd(text: string, groups: readonly Group[], first: number): number {
  if (!CARD_START.test(text.charAt(groups[first]?.start ?? 0))) return -1;
  let digits = '';
  let found = -1;
  for (let index = first; index < groups.length; index++) {
    const { start, end } = groups[index] ?? { start: 0, end: 0 };
    if (digits.length + end - start > CARD_MAX) break;
    digits += text.slice(start, end).normalize('NFKC');
    if (digits.length >= CARD_MIN && passesLuhn(digits)) found = index;
    if (end - start < GROUP_MIN) break;
  }
  return found;
}

function passesLuhn(digits: string): boolean {
  let sum = 0;
  for (let index = 0; index < digits.length; index++) {
    const digit = Number(digits[digits.length - 1 - index]);
    const doubled = digit * 2;
    sum += index % 2 === 0 ? digit : doubled > 9 ? doubled - 9 : doubled;
  }
  return sum % 10 === 0;
}

/** The order matters: an identity card number can contain the digits of a mobile number. */
export function maskPersonal(text: string): string {
  return maskMobiles(maskBankCards(maskIdCards(maskEmails(text))));
}

/** Masked without a pause: some milliseconds. */
const STEP_CHARS = 64 * 1024;
/** No pattern matches across the end of this, or looks back across it. */
const BOUNDARY = /[^0-9A-Za-z０-９Ｘｘ._%+@ -]|[^0-9０-９] /g;

/** As {@link maskPersonal}, in steps of the event loop. @param step in UTF-16 units, at least */
export async function maskInSteps(text: string, step = STEP_CHARS): Promise<string> {
  let output = '';
  for (let at = 0; at < text.length; ) {
    BOUNDARY.lastIndex = at + step;
    const end = BOUNDARY.test(text) ? BOUNDARY.lastIndex : text.length;
    output += maskPersonal(text.slice(at, end));
    at = end;
    if (at < text.length) await nextTurn();
  }
  return output;
}

/** Masks all digits but the first three and the last four. Separators stay. */
function maskMiddle(number: string): string {
  const digits = number.replaceAll(/[- ]/g, '').length;
  let index = 0;
  return number.replaceAll(/[^- ]/g, (digit) => {
    index++;
    return index <= VISIBLE_START || index > digits - VISIBLE_END ? digit : MASK;
  });
}
