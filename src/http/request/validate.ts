import type { z } from 'zod';
import { AppError, type FieldError } from '../../domain/errors.ts';
import { boundedNames } from '../schemas/common.ts';

/** One entry for each unknown member, so that `path` says which one. */
function fieldErrors(issue: z.core.$ZodIssue): FieldError[] {
  const { message } = issue;
  const paths =
    issue.code === 'unrecognized_keys'
      ? boundedNames(issue.keys).map((key) => [...issue.path, key])
      : [issue.path];
  return paths.map((path) => ({ path: path.join('.'), message }));
}

/** @throws AppError `validation`, with one entry for each error; none quotes a value of the input */
export function check<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const errors = parsed.error.issues.flatMap(fieldErrors);
  const first = errors[0];
  const detail =
    first && first.path !== ''
      ? `${first.path}: ${first.message}`
      : (first?.message ?? 'The request is invalid');
  throw new AppError('validation', detail, { errors });
}
