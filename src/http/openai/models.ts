import { z } from 'zod';
import type { ListedModel } from '../../domain/chat/model.ts';
import { AppError } from '../../domain/errors.ts';
import type { ModelList } from '../../services/models.ts';
import { check } from '../request/validate.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { jsonBody } from '../schemas/openapi.ts';
import { openAiErrors } from './openapi.ts';
import { model, modelList } from './schemas.ts';

const modelId = z.object({ id: z.string().meta({ description: 'A `/` in it as `%2F`' }) });

function presentModel({ id, created, ownedBy }: ListedModel): z.input<typeof model> {
  return { id, object: 'model', created, owned_by: ownedBy };
}

export function modelRoutes(models: ModelList): Route[] {
  return [
    {
      method: 'get',
      path: '/v1/models',
      access: 'chat',
      reportsQuery: true,
      operation: {
        summary: 'List the models',
        description:
          'Those of the model server, kept for a minute; the configured ones when it gives no list.',
        tags: ['openai'],
        responses: { 200: { description: 'The models', ...jsonBody(modelList) } },
      },
      async handle(_request, response) {
        const data = (await models.list()).map(presentModel);
        sendJson(response, 200, { object: 'list', data } satisfies z.input<typeof modelList>);
      },
    },
    {
      method: 'get',
      path: '/v1/models/:id',
      access: 'chat',
      reportsQuery: true,
      operation: {
        summary: 'One model',
        tags: ['openai'],
        requestParams: { path: modelId },
        responses: { 200: { description: 'The model', ...jsonBody(model) }, ...openAiErrors(404) },
      },
      async handle(request, response) {
        const { id } = check(modelId, request.params);
        const found = (await models.list()).find((listed) => listed.id === id);
        if (!found) throw new AppError('not_found', 'No model has this id; GET /v1/models lists them');
        sendJson(response, 200, presentModel(found));
      },
    },
  ];
}
