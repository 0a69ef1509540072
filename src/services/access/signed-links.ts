import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Instant } from '../../domain/conversation.ts';

/** An empty or short secret would let anybody sign. */
const SECRET_MIN = 24;
const EXPIRES = /^[1-9]\d{0,11}$/;

type Parameters = Readonly<Record<string, string>>;

/**
 * Addresses that open one resource to whoever has them, until a time. Signed is all that decides what is answered:
 * the method (GET, and HEAD with it), the path as the router sees it, and every parameter beside the signature.
 * What another process signed is good here, within its time and however often.
 */
export class SignedLinks {
  readonly #secrets: () => Promise<readonly string[]>;

  /**
   * @param secrets the one to sign with first, then older ones that are still good; each of at least 24 characters.
   *   To change the secret, put a new one in front, and drop the old one when the links made with it have expired.
   */
  constructor(secrets: () => Promise<readonly string[]>) {
    this.#secrets = secrets;
  }

  /**
   * @param path without a query
   * @param expiresAt the link is good before the full second that this lies in
   * @returns the query: `expires=…&signature=…`, after the given parameters
   * @throws RangeError for parameters called `expires` or `signature`, and for a secret that is none
   */
  async sign(path: string, expiresAt: Instant, parameters: Parameters = {}): Promise<string> {
    if ('expires' in parameters || 'signature' in parameters) throw new RangeError('a parameter of our own');
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
    // All of them, whichever fits: how long it takes says nothing.
    const fits = (await this.#checkedSecrets()).map((secret) => same(signature(secret, path, signed), given));
    return fits.includes(true);
  }

  async #checkedSecrets(): Promise<readonly [string, ...string[]]> {
    const [current, ...older] = await this.#secrets();
    if (current === undefined || [current, ...older].some((secret) => secret.length < SECRET_MIN)) {
      throw new RangeError('no secret to sign links with');
    }
    return [current, ...older];
  }
}

/** Whoever verifies has the decoded parameters, so they are signed in one spelling of our own. */
function signature(secret: string, path: string, parameters: Parameters): string {
  const lines = Object.entries(parameters)
    .map(([name, value]) => JSON.stringify([name, value]))
    .sort();
  // The first line is of this use alone: the secret signs other things too.
  const text = ['link', 'GET', path, ...lines].join('\n');
  return createHmac('sha256', secret).update(text).digest('base64url');
}

/** As text: base64url has several spellings of the same bytes, and only ours is good. */
function same(expected: string, given: string): boolean {
  if (given.length !== expected.length) return false;
  const [a, b] = [Buffer.from(expected), Buffer.from(given)];
  return a.length === b.length && timingSafeEqual(a, b);
}
