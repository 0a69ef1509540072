import type { Request } from 'express';
import type { z } from 'zod';
import { AppError } from '../../domain/errors.ts';
import { boundedNames, unknownName } from '../schemas/common.ts';
import { check } from './validate.ts';

/** Validates the query. Repeated parameters are rejected rather than guessed at, also those that no route uses. */
export function readQuery<T>(request: Request, schema: z.ZodType<T>): T {
  return check(schema, queryParameters(request.url));
}

/** @throws AppError `validation` for parameters that are not in `known`: a misspelt filter would select everything */
export function rejectUnknownParameters(url: string, known: readonly string[]): void {
  const unknown = boundedNames(Object.keys(queryParameters(url)).filter((name) => !known.includes(name)));
  if (unknown.length === 0) return;
  const message = unknownName(known);
  throw new AppError('validation', `${unknown[0]}: ${message}`, {
    errors: unknown.map((path) => ({ path, message })),
  });
}

/** @throws AppError `validation` for repeated parameters */
export function queryParameters(url: string): Record<string, string> {
  const mark = url.indexOf('?');
  if (mark < 0) return {};
  const found = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(url.slice(mark + 1))) {
    if (found.has(name)) {
      throw new AppError('validation', 'Send each query parameter only once', {
        errors: [{ path: name, message: 'must be sent only once' }],
      });
    }
    found.set(name, value);
  }
  return Object.fromEntries(found);
}
