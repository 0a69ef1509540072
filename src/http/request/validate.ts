import type { z } from 'zod';
import { AppError } from '../../domain/errors.ts';

/** @throws AppError `validation`, one entry per fault, never quoting what was sent */
export function check<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const errors = parsed.error.issues.map((issue) => ({ path: issue.path.join('.'), message: issue.message }));
  const first = errors[0];
  const detail =
    first && first.path !== '' ? `${first.path}: ${first.message}` : (first?.message ?? 'Not valid');
  throw new AppError('validation', detail, { errors });
}
