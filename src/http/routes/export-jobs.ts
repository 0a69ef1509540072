import { type Access, ownerFilter } from '../../domain/access/access.ts';
import { invalidMember } from '../../domain/errors.ts';
import type { ExportRequest } from '../../domain/exports/jobs.ts';
import type { CursorCodec } from '../../services/exports/cursor-codec.ts';
import type { ExportJobService } from '../../services/exports/jobs.ts';
import { callerOf } from '../access/caller.ts';
import { CURSOR_DAYS, exportRequestOf, isTooOld } from '../request/export-request.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { presentJob, presentJobList } from '../response/export-presenters.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { pathId, problem } from '../schemas/common.ts';
import {
  type ExportRequestBody,
  exportDeleted,
  exportJob,
  exportJobList,
  exportRequest,
  jobListQuery,
} from '../schemas/export-jobs.ts';
import { eventStream, jsonBody, problems } from '../schemas/openapi.ts';
import { sendJobEvents } from '../sse/job-events.ts';
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
  if (body.since !== undefined && !since)
    throw invalidMember('since', 'must be the cursor of a manifest of this server');
  if (since && isTooOld(since, clock.now())) {
    throw invalidMember('since', `must be at most ${CURSOR_DAYS} days old; start a full export instead`);
  }
  return exportRequestOf(body, ownerFilter(access), since);
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
        'The job survives crashes and restarts, on any worker. Its manifest proves that the file is complete.',
      tags: ['exports'],
      requestBody: { required: true, ...jsonBody(exportRequest, { format: 'json' }) },
      responses: {
        202: {
          description: 'The job is queued; `Location` is its URL',
          headers: { Location: { description: 'The URL of the job', schema: { type: 'string' } } },
          ...jsonBody(exportJob),
        },
        ...problems(400, 413, 415, 503),
      },
    },
    async handle(request, response) {
      const body = check(exportRequest, await parts.readBody(request));
      const job = await parts.jobs.start(await requestOf(body, callerOf(response).access, parts));
      response.setHeader('Location', `/api/exports/${job.id}`);
      sendJson(response, 202, presentJob(job, parts.clock.now()));
    },
  };
}

function listRoute({ jobs, clock }: ExportJobRouteParts): Route {
  return {
    method: 'get',
    path: '/api/exports',
    access: 'export',
    operation: {
      summary: 'List exports, newest first',
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
      summary: 'Get an export with its progress',
      tags: ['exports'],
      requestParams: { path: pathId },
      responses: { 200: { description: 'The job', ...jsonBody(exportJob) }, ...problems(400, 404, 503) },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      sendJson(response, 200, presentJob(await jobs.get(id, callerOf(response).access), clock.now()));
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
      requestParams: { path: pathId },
      responses: {
        200: { description: 'The export is cancelled or removed', ...jsonBody(exportDeleted) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
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
      summary: 'Stream the progress of an export',
      description:
        'Server-sent events: `progress` with the job after each change, then one `done` when it has ended, or `error` ' +
        'with a problem document when it was removed. A request with the `Last-Event-ID` of `done` gets 204.',
      tags: ['exports'],
      requestParams: { path: pathId },
      responses: {
        200: {
          description: 'The events',
          ...eventStream(exportJob.or(problem)),
        },
        204: { description: 'The reader has the last event' },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const { access } = callerOf(response);
      let job = await jobs.get(id, access);
      const load = async () => {
        job = await jobs.follow(job);
        return presentJob(job, clock.now());
      };
      const first = presentJob(job, clock.now());
      await sendJobEvents(request, response, { first, load, heartbeatMs, stopping: jobs.stopping });
    },
  };
}
