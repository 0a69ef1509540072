import type { Decision, Policy } from '../../domain/access/limits.ts';

/** The largest integer of a structured field (RFC 9651, 3.3.1). */
const INTEGER_MAX = 999_999_999_999_999;

/**
 * `RateLimit-Policy` and `RateLimit` after draft-ietf-httpapi-ratelimit-headers-11: lists of strings with parameters.
 * Its registry has no unit `tokens`.
 * @returns no fields without decisions
 */
export function rateLimitHeaders(decisions: readonly Decision[]): Readonly<Record<string, string>> {
  if (decisions.length === 0) return {};
  return {
    'RateLimit-Policy': decisions.map(({ policy }) => policyItem(policy)).join(', '),
    RateLimit: decisions.map(limitItem).join(', '),
  };
}

/** Seconds for `Retry-After`, until every exhausted limit allows requests again; 1 for open streams. */
export function retryAfter(decisions: readonly Decision[]): number {
  return Math.max(1, ...decisions.map(({ allowed, resetSeconds }) => (allowed ? 0 : (resetSeconds ?? 1))));
}

function policyItem({ name, limit, windowSeconds, unit }: Policy): string {
  const quotaUnit = unit === 'requests' ? '' : `;qu=${text(unit)}`;
  const window = windowSeconds === null ? '' : `;w=${integer(windowSeconds)}`;
  return `${text(name)};q=${integer(limit)}${quotaUnit}${window}`;
}

function limitItem({ policy, remaining, resetSeconds }: Decision): string {
  const reset = resetSeconds === null ? '' : `;t=${integer(resetSeconds)}`;
  return `${text(policy.name)};r=${integer(remaining)}${reset}`;
}

function integer(value: number): string {
  return String(Math.min(Math.max(0, Math.trunc(value)), INTEGER_MAX));
}

/** @throws RangeError for characters that a string of a structured field must not contain */
function text(value: string): string {
  if (!/^[\x20-\x7e]*$/.test(value)) throw new RangeError('not printable ASCII');
  return `"${value.replace(/["\\]/g, '\\$&')}"`;
}
