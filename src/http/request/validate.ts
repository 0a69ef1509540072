import type { z } from 'zod';
import { AppError, type FieldError } from '../../domain/errors.ts';
import { boundedNames } from '../schemas/common.ts';

/** One entry for each unknown member, so that `path` says which one. Of alternatives those of the type that was sent. */
function fieldErrors(issue: z.core.$ZodIssue): FieldError[] {
  const { message } = issue;
  const meant =
    issue.code === 'invalid_union' ? issue.errors.find((issues) => !issues.some(isOtherType)) : undefined;
  if (meant?.length) {
    return meant.flatMap((inner) => fieldErrors({ ...inner, path: [...issue.path, ...inner.path] }));
  }
  const paths =
    issue.code === 'unrecognized_keys'
      ? boundedNames(issue.keys).map((key) => [...issue.path, key])
      : [issue.path];
  return paths.map((path) => ({ path: path.join('.'), message }));
}

function isOtherType({ code, path }: z.core.$ZodIssue): boolean {
  return code === 'invalid_type' && path.length === 0;
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
