import type { Request, Response } from 'express';
import { type Access, ownerOnly } from '../../domain/access.ts';
import { AppError } from '../../domain/errors.ts';
import type { ExportJob, ExportRequest } from '../../domain/export-jobs.ts';
import type { Clock } from '../../domain/ports.ts';
import type { CursorCodec } from '../../services/cursor-codec.ts';
import { type ExportJobService, progressOf } from '../../services/export-jobs.ts';
import type { SignedLinks } from '../../services/signed-links.ts';
import type { createBodyReader } from '../body.ts';
import { callerOf } from '../caller.ts';
import { presentJob, presentJobList } from '../presenters-exports.ts';
import { sendJson } from '../problem.ts';
import { readQuery } from '../query.ts';
import type { Route } from '../route.ts';
import {
  type ExportRequestBody,
  exportDeleted,
  exportId,
  exportJob,
  exportJobList,
  exportLink,
  exportManifest,
  exportRequest,
  jobListQuery,
  linkRequest,
} from '../schemas/export-jobs.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';
import { sendFile } from '../send-file.ts';
import { followJob } from '../sse/job-session.ts';
import { check } from '../validate.ts';

export interface ExportJobRouteParts {
  readonly jobs: ExportJobService;
  readonly links: Pick<SignedLinks, 'sign'>;
  readonly cursors: CursorCodec;
  readonly clock: Clock;
  readonly readBody: ReturnType<typeof createBodyReader>;
  readonly heartbeatMs: number;
}

export function exportJobRoutes(parts: ExportJobRouteParts): Route[] {
  return [
    startRoute(parts),
    listRoute(parts),
    getRoute(parts),
    deleteRoute(parts.jobs),
    eventsRoute(parts),
    fileRoute(parts.jobs),
    linkRoute(parts),
    manifestRoute(parts.jobs),
  ];
}

/** How long a cursor is good: so long it is known what was deleted. */
const CURSOR_DAYS = 30;

async function requestOf(
  body: ExportRequestBody,
  access: Access,
  { cursors, clock }: ExportJobRouteParts,
): Promise<ExportRequest> {
  const since = body.since === undefined ? null : await cursors.decode(body.since);
  if (body.since !== undefined && !since) throw badSince('must be the cursor of a manifest of this server');
  if (since && since.at < clock.now() - CURSOR_DAYS * 86_400_000) {
    throw badSince(`is more than ${CURSOR_DAYS} days old; make a whole export again`);
  }
  return {
    format: body.format,
    raw: body.csv === 'raw',
    compression: body.compression,
    filter: {
      owner: ownerOnly(access),
      from: body.start_date ?? null,
      to: body.end_date ?? null,
      role: body.role ?? null,
      status: body.status ?? null,
    },
    since,
    notify: { email: body.notify?.email ?? null, webhook: body.notify?.webhook ?? null },
  };
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

function fileRoute(jobs: ExportJobService): Route {
  return {
    method: 'get',
    path: '/api/exports/:id/file',
    access: 'export',
    linked: true,
    operation: {
      summary: 'Download the file of an export',
      description: 'With `Range`, `If-Range` and a strong `ETag`, so that a download that broke off goes on.',
      tags: ['exports'],
      requestParams: { path: exportId },
      responses: {
        200: {
          description: 'The file',
          headers: {
            'Repr-Digest': { description: 'RFC 9530: SHA-256 of the whole file', schema: { type: 'string' } },
            ETag: { schema: { type: 'string' } },
          },
          content: { 'application/octet-stream': { schema: { type: 'string' } } },
        },
        206: { description: 'A part of it' },
        304: { description: 'It is the one that the client has' },
        ...problems(400, 404, 409, 412, 416, 503),
      },
    },
    async handle(request: Request, response: Response) {
      const { id } = check(exportId, request.params);
      const { folder, name, job, manifest } = await jobs.file(id, callerOf(response).access);
      const { bytes, sha256 } = manifest;
      await sendFile(request, response, { folder, name, ...typeOf(job.request), bytes, sha256 });
    },
  };
}

const TYPES = {
  json: 'application/json',
  csv: 'text/csv; charset=utf-8',
  ndjson: 'application/x-ndjson',
} as const;
const PACKED = { none: null, gzip: 'application/gzip', zstd: 'application/zstd' } as const;

function typeOf({ format, compression }: ExportRequest): { readonly type: string } {
  return { type: PACKED[compression] ?? TYPES[format] };
}

function linkRoute({ jobs, links, clock, readBody }: ExportJobRouteParts): Route {
  return {
    method: 'post',
    path: '/api/exports/:id/link',
    access: 'export',
    operation: {
      summary: 'Make a link that opens the file without a key',
      description:
        'For mails and browsers. Whoever has it may fetch the file, and nothing else, until it expires.',
      tags: ['exports'],
      requestParams: { path: exportId },
      requestBody: { required: true, ...jsonBody(linkRequest) },
      responses: {
        200: { description: 'The link', ...jsonBody(exportLink) },
        ...problems(400, 404, 409, 413, 415, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(exportId, request.params);
      const { expires_in } = check(linkRequest, await readBody(request));
      await jobs.file(id, callerOf(response).access);
      // Whole seconds, as the link has them.
      const expiresAt = Math.floor(clock.now() / 1000 + expires_in) * 1000;
      const path = `/api/exports/${id}/file`;
      const url = `${path}?${await links.sign(path, expiresAt)}`;
      sendJson(response, 200, { url, expires_at: new Date(expiresAt).toISOString() });
    },
  };
}

function manifestRoute(jobs: ExportJobService): Route {
  return {
    method: 'get',
    path: '/api/exports/:id/manifest',
    access: 'export',
    operation: {
      summary: 'What proves the file of an export complete',
      tags: ['exports'],
      requestParams: { path: exportId },
      responses: {
        200: { description: 'The manifest', ...jsonBody(exportManifest) },
        ...problems(400, 404, 409, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(exportId, request.params);
      sendJson(response, 200, await jobs.manifest(id, callerOf(response).access));
    },
  };
}
