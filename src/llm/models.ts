import type { IncomingMessage } from 'node:http';
import { z } from 'zod';
import type { ListedModel } from '../domain/chat/model.ts';
import { parseJson } from '../util/json.ts';
import { UpstreamError } from './errors.ts';
import { decodedBody } from './transport/body.ts';

/** The lists of aggregators have some hundred models with long descriptions. */
const MAX_BYTES = 16 * 1024 ** 2;

const listed = z.looseObject({
  id: z.string().min(1).max(200),
  created: z.int().catch(0),
  owned_by: z.string().catch('unknown'),
});
const list = z.looseObject({ data: z.array(z.unknown()) });

/** Reads a list of models in OpenAI's form. @throws UpstreamError for any other response */
export async function readModels(response: IncomingMessage): Promise<readonly ListedModel[]> {
  const fail = (reason: string) =>
    new UpstreamError('upstream_error', { status: response.statusCode, reason });
  if (response.statusCode !== 200) throw fail('no list of models');
  let body = '';
  for await (const text of decodedBody(response).setEncoding('utf8')) {
    body += text;
    if (body.length > MAX_BYTES) throw fail('the list of models is too long');
  }
  const parsed = list.safeParse(parseJson(body));
  if (!parsed.success) throw fail('the list of models has another form');
  return parsed.data.data.flatMap((value) => {
    const { success, data } = listed.safeParse(value);
    return success ? { id: data.id, created: data.created, ownedBy: data.owned_by } : [];
  });
}
