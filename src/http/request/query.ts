import type { Request } from 'express';
import type { z } from 'zod';
import { AppError } from '../../domain/errors.ts';
import { check } from './validate.ts';

/**
 * The query, checked. A parameter that stands twice is refused, whether the route knows it or not: which one counts
 * is nothing to guess at.
 */
export function readQuery<T>(request: Request, schema: z.ZodType<T>): T {
  return check(schema, queryParameters(request.url));
}

/** @throws AppError `validation` for repeated parameters */
export function queryParameters(url: string): Record<string, string> {
  const mark = url.indexOf('?');
  if (mark < 0) return {};
  const found = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(url.slice(mark + 1))) {
    if (found.has(name)) {
      throw new AppError('validation', 'A query parameter stands twice', {
        errors: [{ path: name, message: 'must stand only once' }],
      });
    }
    found.set(name, value);
  }
  return Object.fromEntries(found);
}
