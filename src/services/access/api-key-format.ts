/**
 * The format of a key: `ck_`, 8 public characters, `_`, 43 characters of secret (256 bits), 6 of checksum. Letters and
 * digits only, so that no header, URL or shell needs to quote it. The checksum (CRC-32, as in GitHub's tokens) detects
 * typos without a database query and helps secret scanners; it proves nothing.
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

/** Whether a string has the format of a key. */
export function looksLikeKey(text: string): boolean {
  // The length first: the input may be large.
  if (text.length !== BODY_LENGTH + CHECK_LENGTH || !SHAPE.test(text)) return false;
  return text.endsWith(checksum(text.slice(0, BODY_LENGTH)));
}

/** SHA-256, hexadecimal. A plain hash is enough for 256 random bits. */
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
