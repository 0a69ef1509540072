import { createHmac, timingSafeEqual } from 'node:crypto';
import type { ExportCursor } from '../domain/ports.ts';

/** Bytes of the signature that go along: more than anybody guesses. */
const SIGNATURE_BYTES = 16;

/** Cursors as text that only those who know the secret can make. */
export class CursorCodec {
  readonly #secret: () => Promise<string>;

  /** @param secret the same for all processes on one database */
  constructor(secret: () => Promise<string>) {
    this.#secret = secret;
  }

  async encode({ seq, at }: ExportCursor): Promise<string> {
    const payload = Buffer.from(`${seq}.${at}`).toString('base64url');
    return `${payload}.${(await this.#sign(payload)).toString('base64url')}`;
  }

  /** Null for what was not made here. */
  async decode(text: string): Promise<ExportCursor | null> {
    const [, payload, signature] = /^([\w-]{1,100})\.([\w-]{22})$/.exec(text) ?? [];
    if (payload === undefined || signature === undefined) return null;
    const expected = await this.#sign(payload);
    const given = Buffer.from(signature, 'base64url');
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
    const [seq, at] = Buffer.from(payload, 'base64url').toString().split('.').map(Number);
    return seq === undefined || at === undefined ? null : { seq, at };
  }

  async #sign(payload: string): Promise<Buffer> {
    const hmac = createHmac('sha256', await this.#secret()).update(`export-cursor\n${payload}`);
    return hmac.digest().subarray(0, SIGNATURE_BYTES);
  }
}
