import { createHash } from 'node:crypto';
import type { Request } from 'express';
import type { Access } from '../../domain/access.ts';
import { AppError } from '../../domain/errors.ts';
import type { IdempotencyKey } from '../../services/chat/idempotent-turns.ts';

const MALFORMED = 'must stand once and be 1 to 255 visible ASCII characters, bare or in double quotes';

/**
 * The request's `Idempotency-Key`, if it has one. A quoted key (a structured field, as the IETF draft has it) and the
 * same characters bare are one key.
 * Of each owner of API keys, the same key is another one; and of a key to which everything is open, because what it
 * asked may lie in somebody else's conversation.
 * @param asked what makes two requests the same
 * @throws AppError `validation`
 */
export function idempotencyKey(request: Request, { access, ...asked }: Asked): IdempotencyKey | undefined {
  const sent = request.headersDistinct['idempotency-key'];
  if (sent === undefined) return undefined;
  const key = sent.length === 1 ? unquoted(sent[0] ?? '') : undefined;
  if (key === undefined) {
    throw new AppError('validation', `Idempotency-Key ${MALFORMED}`, {
      errors: [{ path: 'Idempotency-Key', message: MALFORMED }],
    });
  }
  const { owner, unrestricted } = access;
  return { id: sha256([request.path, key, owner, unrestricted]), bodyHash: sha256(asked) };
}

/** Plain data, and who asks. */
interface Asked {
  readonly access: Access;
}

function unquoted(text: string): string | undefined {
  const quoted = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/.exec(text)?.[1]?.replace(/\\(.)/g, '$1');
  const key = quoted ?? (text.startsWith('"') ? '' : text);
  return /^[\x21-\x7e]{1,255}$/.test(key) ? key : undefined;
}

function sha256(data: unknown): string {
  return createHash('sha256').update(JSON.stringify(data)).digest('hex');
}
