import { createHmac, timingSafeEqual } from 'node:crypto';
import type { ExportCursor } from '../../domain/exports.ts';

/** Bytes of the signature that go along: more than anybody guesses. */
const SIGNATURE_BYTES = 16;

/** Cursors as text that only those who know the secret can make. */
export class CursorCodec {
  readonly #secrets: () => Promise<readonly string[]>;

  /** @param secrets the same for all processes on one database: the one to sign with, then older ones still good */
  constructor(secrets: () => Promise<readonly string[]>) {
    this.#secrets = secrets;
  }

  async encode({ seq, at }: ExportCursor): Promise<string> {
    const payload = Buffer.from(`${seq}.${at}`).toString('base64url');
    const [secret = ''] = await this.#secrets();
    return `${payload}.${sign(payload, secret).toString('base64url')}`;
  }

  /** Null for what was not made here. */
  async decode(text: string): Promise<ExportCursor | null> {
    const [, payload, signature] = /^([\w-]{1,100})\.([\w-]{22})$/.exec(text) ?? [];
    if (payload === undefined || signature === undefined) return null;
    const given = Buffer.from(signature, 'base64url');
    const fits = (await this.#secrets()).map((secret) => timingSafeEqual(given, sign(payload, secret)));
    if (!fits.includes(true)) return null;
    const [seq, at] = Buffer.from(payload, 'base64url').toString().split('.').map(Number);
    return seq === undefined || at === undefined ? null : { seq, at };
  }
}

function sign(payload: string, secret: string): Buffer {
  const hmac = createHmac('sha256', secret).update(`export-cursor\n${payload}`);
  return hmac.digest().subarray(0, SIGNATURE_BYTES);
}
