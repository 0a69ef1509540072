import { z } from 'zod';
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
    // Where keys are asked for, the rest is for those with the scope admin.
    database: z
      .enum(['up', 'down'])
      .optional()
      .meta({ description: '`down` also while its migrations are pending' }),
    upstream: z
      .enum(['demo', 'up', 'down'])
      .optional()
      .meta({ description: 'Shown, but does not decide the status' }),
    journal: z
      .object({ turns: z.int(), bytes: z.int(), oldest: instant.nullable() })
      .optional()
      .meta({ description: 'What waits on this host until the database is back' }),
  })
  .meta({
    id: 'Readiness',
    description: 'More than the status only where no keys are asked for, or to admins',
  });

function aliveRoute(path: string, version: string): Route {
  return {
    method: 'get',
    path,
    access: 'open',
    operation: {
      summary: 'Whether this process lives',
      tags: ['health'],
      responses: { 200: { description: 'It does', ...jsonBody(alive) } },
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
    operation: {
      summary: 'Whether this process should get requests',
      tags: ['health'],
      responses: {
        200: { description: 'It should', ...jsonBody(readiness) },
        503: { description: 'It should not', ...jsonBody(readiness) },
      },
    },
    async handle(_request, response) {
      const { ready, stopping, database, upstream, journal } = await health.report();
      const status = ready ? 'ready' : stopping ? 'stopping' : 'not_ready';
      const oldest = journal.oldest === null ? null : new Date(journal.oldest).toISOString();
      const details = { database, upstream, journal: { ...journal, oldest } };
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
