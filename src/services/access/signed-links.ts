import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Instant } from '../../domain/conversations/conversation.ts';

/** Short secrets can be guessed. */
const SECRET_MIN = 24;
const EXPIRES = /^[1-9]\d{0,11}$/;

type Parameters = Readonly<Record<string, string>>;

/**
 * URLs that give access to one resource until they expire, without a key. The signature covers all that determines
 * the response: the method (GET, which includes HEAD), the path as the router sees it, and every other parameter.
 * Links are valid in all processes and can be used repeatedly.
 */
export class SignedLinks {
  readonly #secrets: () => Promise<readonly string[]>;

  /**
   * @param secrets the signing secret, then older ones that still verify; each of at least 24 characters. To rotate,
   *   put a new one in front and remove the old one when its links have expired.
   */
  constructor(secrets: () => Promise<readonly string[]>) {
    this.#secrets = secrets;
  }

  /**
   * @param path without a query
   * @param expiresAt rounded down to the second
   * @returns the query: `expires=…&signature=…`, after the given parameters
   * @throws RangeError for parameters called `expires` or `signature`, and for a short secret
   */
  async sign(path: string, expiresAt: Instant, parameters: Parameters = {}): Promise<string> {
    if ('expires' in parameters || 'signature' in parameters) throw new RangeError('reserved parameter');
    const signed = { ...parameters, expires: String(Math.floor(expiresAt / 1000)) };
    const [secret] = await this.#checkedSecrets();
    const query = new URLSearchParams({ ...signed, signature: signature(secret, path, signed) });
    return query.toString();
  }

  /**
   * @param query each parameter once, decoded
   * @throws whatever getting the secrets throws; nothing for any input
   */
  async verify(method: string, path: string, query: Parameters, now: Instant): Promise<boolean> {
    const { signature: given, ...signed } = query;
    const { expires } = signed;
    if (method !== 'GET' && method !== 'HEAD') return false;
    if (given === undefined || expires === undefined || !EXPIRES.test(expires)) return false;
    if (now >= Number(expires) * 1000) return false;
    // Compares with all of them, so that the duration reveals nothing.
    const fits = (await this.#checkedSecrets()).map((secret) => same(signature(secret, path, signed), given));
    return fits.includes(true);
  }

  async #checkedSecrets(): Promise<readonly [string, ...string[]]> {
    const [current, ...older] = await this.#secrets();
    if (current === undefined || [current, ...older].some((secret) => secret.length < SECRET_MIN)) {
      throw new RangeError('no valid secret to sign links with');
    }
    return [current, ...older];
  }
}

/** Signs decoded parameters in a canonical form, because verification sees only those. */
function signature(secret: string, path: string, parameters: Parameters): string {
  const lines = Object.entries(parameters)
    .map(([name, value]) => JSON.stringify([name, value]))
    .sort();
  // The first line separates this use of the secret from others.
  const text = ['link', 'GET', path, ...lines].join('\n');
  return createHmac('sha256', secret).update(text).digest('base64url');
}

/** Compares text, because base64url has several spellings of the same bytes. */
function same(expected: string, given: string): boolean {
  if (given.length !== expected.length) return false;
  const [a, b] = [Buffer.from(expected), Buffer.from(given)];
  return a.length === b.length && timingSafeEqual(a, b);
}
