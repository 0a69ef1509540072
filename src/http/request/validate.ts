import type { z } from 'zod';
import { AppError } from '../../domain/errors.ts';

/** @throws AppError `validation`, with one entry for each error; none quotes the input */
export function check<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const errors = parsed.error.issues.map((issue) => ({ path: issue.path.join('.'), message: issue.message }));
  const first = errors[0];
  const detail =
    first && first.path !== ''
      ? `${first.path}: ${first.message}`
      : (first?.message ?? 'The request is invalid');
  throw new AppError('validation', detail, { errors });
}
