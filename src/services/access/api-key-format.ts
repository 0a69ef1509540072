/**
 * How a key is written: `ck_`, 8 characters that may be shown, `_`, 43 characters of secret (256 bits), 6 of checksum.
 * All of them are letters and digits, so a double click selects the key and no header, URL or shell needs to quote it.
 * The checksum (CRC-32 of all before it, as GitHub's tokens have it) tells typos, cut-off keys and made-up ones without
 * asking the database, and lets scanners for leaked secrets know a key from other text. It is no proof of anything:
 * whoever reads this can compute it.
 */
import { hash, randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const PREFIX_LENGTH = 8;
const SECRET_LENGTH = 43;
const CHECK_LENGTH = 6;
const BODY_LENGTH = 'ck_'.length + PREFIX_LENGTH + '_'.length + SECRET_LENGTH;
const SHAPE = new RegExp(`^ck_[0-9A-Za-z]{${PREFIX_LENGTH}}_[0-9A-Za-z]{${SECRET_LENGTH + CHECK_LENGTH}}$`);

export interface NewKey {
  readonly key: string;
  readonly prefix: string;
  readonly hash: string;
}

export function makeKey(): NewKey {
  const prefix = `ck_${randomText(PREFIX_LENGTH)}`;
  const body = `${prefix}_${randomText(SECRET_LENGTH)}`;
  const key = body + checksum(body);
  return { key, prefix, hash: hashOf(key) };
}

/** Whether it can be a key at all; for any string, in no time. */
export function looksLikeKey(text: string): boolean {
  // The length first: what comes in may be a megabyte.
  if (text.length !== BODY_LENGTH + CHECK_LENGTH || !SHAPE.test(text)) return false;
  return text.endsWith(checksum(text.slice(0, BODY_LENGTH)));
}

/** SHA-256, hexadecimal. A plain hash is enough: nobody guesses 256 random bits, however fast. */
export function hashOf(key: string): string {
  return hash('sha256', key, 'hex');
}

function randomText(length: number): string {
  return Array.from({ length }, () => ALPHABET.charAt(randomInt(ALPHABET.length))).join('');
}

function checksum(text: string): string {
  let rest = crc32(text);
  let digits = '';
  for (let place = 0; place < CHECK_LENGTH; place++) {
    digits = ALPHABET.charAt(rest % ALPHABET.length) + digits;
    rest = Math.floor(rest / ALPHABET.length);
  }
  return digits;
}
