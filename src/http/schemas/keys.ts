import { z } from 'zod';
import { MAX_LIMITS, SCOPES } from '../../domain/access/api-keys.ts';
import { cleanText, instant, strictObject, uuid } from './common.ts';

const scopes = z
  .array(z.enum(SCOPES, `must be one of ${SCOPES.join(', ')}`))
  .min(1, `must have at least one of ${SCOPES.join(', ')}`)
  .meta({ example: ['chat', 'read'] });

function ownLimit(max: number, what: string) {
  const rule = `must be a whole number from 0 to ${max}`;
  return z
    .int(rule)
    .min(0, rule)
    .max(max, rule)
    .nullable()
    .meta({ description: `${what}; 0: no limit; null: the limit of the server` });
}

const limits = {
  requests: ownLimit(MAX_LIMITS.requestsPerMinute, 'Requests a minute'),
  streams: ownLimit(MAX_LIMITS.openStreams, 'Open streams'),
};

export const keyRequest = strictObject({
  owner: cleanText(z.string()).max(255).meta({
    description:
      'The owner whose conversations and exports the key can access; several keys may share an owner',
  }),
  scopes,
  requests: limits.requests.optional(),
  streams: limits.streams.optional(),
  expires_at: z.iso
    .datetime({ offset: true, error: 'must be an instant with a zone, such as 2027-01-01T00:00:00Z' })
    .transform((text) => Date.parse(text))
    .nullish()
    .meta({ override: { type: ['string', 'null'], format: 'date-time' }, description: 'null: never' }),
}).meta({ id: 'ApiKeyRequest' });

const keyMembers = {
  id: uuid,
  prefix: z.string().meta({ description: 'The first characters of the key', example: 'ck_4fT9xQ2a' }),
  owner: z.string(),
  scopes,
  ...limits,
  created_at: instant,
  expires_at: instant.nullable(),
  last_used_at: instant.nullable().meta({ description: 'Accurate to the minute' }),
  revoked_at: instant.nullable(),
};

export const apiKey = z.object(keyMembers).meta({ id: 'ApiKey' });

export type ApiKeyBody = z.output<typeof apiKey>;

export const newKey = z
  .object({ key: z.string().meta({ description: 'Shown only in this response' }), ...keyMembers })
  .meta({ id: 'NewApiKey' });

export const keyList = z.object({ keys: z.array(apiKey) }).meta({ id: 'ApiKeyList' });
