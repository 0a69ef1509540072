import { createHmac, timingSafeEqual } from 'node:crypto';
import type { ExportCursor } from '../../domain/exports/exports.ts';

/** 128 bits of the HMAC. */
const SIGNATURE_BYTES = 16;

/** Export cursors as signed text. */
export class CursorCodec {
  readonly #secrets: () => Promise<readonly string[]>;

  /** @param secrets shared by all processes on the database: the first one signs, all of them verify */
  constructor(secrets: () => Promise<readonly string[]>) {
    this.#secrets = secrets;
  }

  /** Versions that count rows read the first number as a row from which on all are new. */
  async encode({ at }: ExportCursor): Promise<string> {
    const payload = Buffer.from(`0.${at}`).toString('base64url');
    const [secret = ''] = await this.#secrets();
    return `${payload}.${sign(payload, secret).toString('base64url')}`;
  }

  /** Null when the signature does not match. */
  async decode(text: string): Promise<ExportCursor | null> {
    const [, payload, signature] = /^([\w-]{1,100})\.([\w-]{22})$/.exec(text) ?? [];
    if (payload === undefined || signature === undefined) return null;
    const given = Buffer.from(signature, 'base64url');
    const fits = (await this.#secrets()).map((secret) => timingSafeEqual(given, sign(payload, secret)));
    if (!fits.includes(true)) return null;
    const [, at] = Buffer.from(payload, 'base64url').toString().split('.').map(Number);
    return at === undefined ? null : { at };
  }
}

function sign(payload: string, secret: string): Buffer {
  const hmac = createHmac('sha256', secret).update(`export-cursor\n${payload}`);
  return hmac.digest().subarray(0, SIGNATURE_BYTES);
}
