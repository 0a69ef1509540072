import { createHash } from 'node:crypto';
import type { Request } from 'express';
import type { Access } from '../../domain/access/access.ts';
import type { IdempotencyKey } from '../../domain/chat/turns.ts';
import { AppError } from '../../domain/errors.ts';

const RULE = 'must be sent once, as 1 to 255 visible ASCII characters, bare or in double quotes';

/**
 * The request's `Idempotency-Key`; undefined without one. A quoted key (a structured field, as in the IETF draft) equals
 * the same bare key. Keys of different owners of API keys are independent. So are those of unrestricted keys, whose
 * conversation can belong to another owner.
 * @param input returns everything that must match for a request to count as a repetition
 * @throws AppError `validation`
 */
export function idempotencyKey(
  request: Request,
  access: Access,
  input: () => unknown,
): IdempotencyKey | undefined {
  if (request.headers['idempotency-key'] === undefined) return undefined;
  const sent = request.headersDistinct['idempotency-key'] ?? [];
  const key = sent.length === 1 ? unquoted(sent[0] ?? '') : undefined;
  if (key === undefined) {
    throw new AppError('validation', `Idempotency-Key ${RULE}`, {
      errors: [{ path: 'Idempotency-Key', message: RULE }],
    });
  }
  const { owner, unrestricted } = access;
  return { id: sha256([request.path, key, owner, unrestricted]), bodyHash: sha256(input()) };
}

function unquoted(text: string): string | undefined {
  const quoted = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/.exec(text)?.[1]?.replace(/\\(.)/g, '$1');
  const key = quoted ?? (text.startsWith('"') ? '' : text);
  return /^[\x21-\x7e]{1,255}$/.test(key) ? key : undefined;
}

function sha256(data: unknown): string {
  return createHash('sha256').update(JSON.stringify(data)).digest('hex');
}
