import { type Access, ownerFilter } from '../../domain/access.ts';
import { AppError } from '../../domain/errors.ts';
import type { ExportJob, ExportRequest } from '../../domain/export-jobs.ts';
import type { Clock } from '../../domain/runtime.ts';
import type { CursorCodec } from '../../services/exports/cursor-codec.ts';
import { type ExportJobService, progressOf } from '../../services/exports/jobs.ts';
import { callerOf } from '../access/caller.ts';
import { CURSOR_DAYS, exportRequestOf, isTooOld } from '../request/export-request.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { presentJob, presentJobList } from '../response/export-presenters.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import {
  type ExportRequestBody,
  exportDeleted,
  exportId,
  exportJob,
  exportJobList,
  exportRequest,
  jobListQuery,
} from '../schemas/export-jobs.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';
import { followJob } from '../sse/job-session.ts';
import { type ExportFileRouteParts, exportFileRoutes } from './export-files.ts';

export interface ExportJobRouteParts extends ExportFileRouteParts {
  readonly cursors: CursorCodec;
  readonly heartbeatMs: number;
}

export function exportJobRoutes(parts: ExportJobRouteParts): Route[] {
  return [
    startRoute(parts),
    listRoute(parts),
    getRoute(parts),
    deleteRoute(parts.jobs),
    eventsRoute(parts),
    ...exportFileRoutes(parts),
  ];
}

async function requestOf(
  body: ExportRequestBody,
  access: Access,
  { cursors, clock }: ExportJobRouteParts,
): Promise<ExportRequest> {
  const since = body.since === undefined ? null : await cursors.decode(body.since);
  if (body.since !== undefined && !since) throw badSince('must be the cursor of a manifest of this server');
  if (since && isTooOld(since, clock.now())) {
    throw badSince(`is more than ${CURSOR_DAYS} days old; make a whole export again`);
  }
  return exportRequestOf(body, ownerFilter(access), since);
}

function badSince(message: string): AppError {
  return new AppError('validation', `since: ${message}`, { errors: [{ path: 'since', message }] });
}

function startRoute(parts: ExportJobRouteParts): Route {
  return {
    method: 'post',
    path: '/api/exports',
    access: 'export',
    quotas: ['exports'],
    operation: {
      summary: 'Start an export to a file',
      description:
        'Goes on across crashes and restarts, on any worker; the file proves itself by its manifest.',
      tags: ['exports'],
      requestBody: { required: true, ...jsonBody(exportRequest) },
      responses: {
        202: {
          description: 'It is queued; `Location` is where it can be followed',
          headers: { Location: { schema: { type: 'string' } } },
          ...jsonBody(exportJob),
        },
        ...problems(400, 413, 415, 503),
      },
    },
    async handle(request, response) {
      const body = check(exportRequest, await parts.readBody(request));
      const job = await parts.jobs.start(await requestOf(body, callerOf(response).access, parts));
      response.setHeader('Location', `/api/exports/${job.id}`);
      sendJson(response, 202, present(job, parts.clock));
    },
  };
}

function present(job: ExportJob, clock: Clock) {
  return presentJob(job, progressOf(job, clock.now()));
}

function listRoute({ jobs, clock }: ExportJobRouteParts): Route {
  return {
    method: 'get',
    path: '/api/exports',
    access: 'export',
    operation: {
      summary: 'List exports, the newest first',
      tags: ['exports'],
      requestParams: { query: jobListQuery },
      responses: { 200: { description: 'A page', ...jsonBody(exportJobList) }, ...problems(400, 503) },
    },
    async handle(request, response) {
      const { limit, cursor } = readQuery(request, jobListQuery);
      const { access } = callerOf(response);
      sendJson(response, 200, presentJobList(await jobs.list(access, limit, cursor ?? null), clock.now()));
    },
  };
}

function getRoute({ jobs, clock }: ExportJobRouteParts): Route {
  return {
    method: 'get',
    path: '/api/exports/:id',
    access: 'export',
    operation: {
      summary: 'How far an export is',
      tags: ['exports'],
      requestParams: { path: exportId },
      responses: { 200: { description: 'The job', ...jsonBody(exportJob) }, ...problems(400, 404, 503) },
    },
    async handle(request, response) {
      const { id } = check(exportId, request.params);
      sendJson(response, 200, present(await jobs.get(id, callerOf(response).access), clock));
    },
  };
}

function deleteRoute(jobs: ExportJobService): Route {
  return {
    method: 'delete',
    path: '/api/exports/:id',
    access: 'export',
    operation: {
      summary: 'Cancel an export, or remove an ended one with its file',
      tags: ['exports'],
      requestParams: { path: exportId },
      responses: { 200: { description: 'Done', ...jsonBody(exportDeleted) }, ...problems(400, 404, 503) },
    },
    async handle(request, response) {
      const { id } = check(exportId, request.params);
      const status = await jobs.delete(id, callerOf(response).access);
      sendJson(response, 200, { id, deleted: true, status });
    },
  };
}

function eventsRoute({ jobs, clock, heartbeatMs }: ExportJobRouteParts): Route {
  return {
    method: 'get',
    path: '/api/exports/:id/events',
    access: 'export',
    quotas: ['streams'],
    operation: {
      summary: 'Follow an export',
      description:
        'Server-sent events: `progress` with the job whenever it changed, then one `done` when it has ended, or ' +
        '`error` with a problem when it was removed. Again with the `Last-Event-ID` of `done` it is 204.',
      tags: ['exports'],
      requestParams: { path: exportId },
      responses: {
        200: {
          description: 'The events',
          content: { 'text/event-stream': { schema: { type: 'string' } } },
        },
        204: { description: 'The reader has been told the end' },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(exportId, request.params);
      const { access } = callerOf(response);
      const look = async () => present(await jobs.get(id, access), clock);
      await followJob(request, response, {
        first: await look(),
        look,
        heartbeatMs,
        stopping: jobs.stopping,
      });
    },
  };
}
