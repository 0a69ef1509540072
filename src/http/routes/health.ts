import { z } from 'zod';
import { isoTime } from '../../domain/time.ts';
import type { HealthService } from '../../services/health.ts';
import { callerOf } from '../access/caller.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { instant } from '../schemas/common.ts';
import { jsonBody } from '../schemas/openapi.ts';

const alive = z.object({ status: z.literal('ok'), version: z.string() }).meta({ id: 'Health' });

const readiness = z
  .object({
    status: z.enum(['ready', 'not_ready', 'stopping']),
    database: z.enum(['up', 'read_only', 'down']).optional().meta({
      description:
        'Also `down` while migrations are pending; `read_only` while it can be read but not written',
    }),
    upstream: z.enum(['demo', 'up', 'refused', 'not_found', 'down']).optional().meta({
      description:
        'Does not affect the status. `refused`: it rejects OPENAI_API_KEY; `not_found`: it responds with 404 to GET /models',
    }),
    open_circuits: z.array(z.string()).optional().meta({
      description: 'Models that are not called for some seconds because they keep failing (at most 20)',
    }),
    journal: z
      .object({ turns: z.int(), bytes: z.int(), oldest: instant.nullable() })
      .optional()
      .meta({ description: 'Turns on this host that are not in the database yet' }),
  })
  .meta({
    id: 'Readiness',
    description: 'Where authentication is on, only admins get more than the status',
  });

function aliveRoute(path: string, version: string): Route {
  return {
    method: 'get',
    path,
    access: 'open',
    operation: {
      summary: 'Liveness: whether this process runs',
      tags: ['health'],
      responses: { 200: { description: 'The process runs', ...jsonBody(alive) } },
    },
    handle(_request, response) {
      sendJson(response, 200, { status: 'ok', version });
    },
  };
}

function readyRoute(health: HealthService): Route {
  return {
    method: 'get',
    path: '/health/ready',
    access: 'open',
    usesKey: true,
    operation: {
      summary: 'Readiness: whether this process should get requests',
      tags: ['health'],
      responses: {
        200: { description: 'The process is ready', ...jsonBody(readiness) },
        503: { description: 'The process is not ready', ...jsonBody(readiness) },
      },
    },
    async handle(_request, response) {
      const { ready, stopping, database, upstream, openCircuits, journal } = await health.report();
      const status = ready ? 'ready' : stopping ? 'stopping' : 'not_ready';
      const details = {
        database,
        upstream,
        open_circuits: openCircuits,
        journal: { ...journal, oldest: isoTime(journal.oldest) },
      };
      sendJson(response, ready ? 200 : 503, {
        status,
        ...(callerOf(response).access.unrestricted && details),
      });
    },
  };
}

export function healthRoutes(health: HealthService, version: string): Route[] {
  return [aliveRoute('/health', version), aliveRoute('/api/health', version), readyRoute(health)];
}
