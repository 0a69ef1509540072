import type { Request, Response } from 'express';
import type { Clock } from '../../domain/runtime.ts';
import { isoTime } from '../../domain/time.ts';
import type { SignedLinks } from '../../services/access/signed-links.ts';
import type { ExportJobService } from '../../services/exports/jobs.ts';
import { callerOf } from '../access/caller.ts';
import type { BodyReader } from '../request/body.ts';
import { check } from '../request/validate.ts';
import { mediaTypeOf } from '../response/media-types.ts';
import { sendJson } from '../response/problem.ts';
import { sendFile } from '../response/send-file.ts';
import type { Route } from '../route.ts';
import { pathId } from '../schemas/common.ts';
import { exportLink, exportManifest, linkRequest } from '../schemas/export-jobs.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';

export interface ExportFileRouteParts {
  readonly jobs: ExportJobService;
  readonly links: Pick<SignedLinks, 'sign'>;
  readonly clock: Clock;
  readonly readBody: BodyReader;
}

/** The file of a finished export, a signed link to it, and its manifest. */
export function exportFileRoutes(parts: ExportFileRouteParts): Route[] {
  return [fileRoute(parts.jobs), linkRoute(parts), manifestRoute(parts.jobs)];
}

function fileRoute(jobs: ExportJobService): Route {
  return {
    method: 'get',
    path: '/api/exports/:id/file',
    access: 'export',
    linked: true,
    operation: {
      summary: 'Download the file of an export',
      description:
        'Supports `Range` and `If-Range` with a strong `ETag`, so that an interrupted download can be resumed.',
      tags: ['exports'],
      requestParams: { path: pathId },
      responses: {
        200: {
          description: 'The file',
          headers: {
            'Repr-Digest': { description: 'RFC 9530, SHA-256 of the whole file', schema: { type: 'string' } },
            ETag: { description: 'Strong, for `If-Range` and `If-Match`', schema: { type: 'string' } },
          },
          content: { 'application/octet-stream': { schema: { type: 'string' } } },
        },
        206: { description: 'A part of the file' },
        304: { description: 'The client has the current file' },
        ...problems(400, 404, 409, 412, 416, 503),
      },
    },
    async handle(request: Request, response: Response) {
      const { id } = check(pathId, request.params);
      const { folder, name, job, manifest } = await jobs.file(id, callerOf(response).access);
      const { bytes, sha256 } = manifest;
      const type = mediaTypeOf(job.request.format, job.request.compression);
      await sendFile(request, response, { folder, name, type, bytes, sha256 });
    },
  };
}

function linkRoute({ jobs, links, clock, readBody }: ExportFileRouteParts): Route {
  return {
    method: 'post',
    path: '/api/exports/:id/link',
    access: 'export',
    operation: {
      summary: 'Create a link to download the file without a key',
      description: 'For mails and browsers. The link grants access to this file only, until it expires.',
      tags: ['exports'],
      requestParams: { path: pathId },
      requestBody: { required: true, ...jsonBody(linkRequest, { expires_in: 3600 }) },
      responses: {
        200: { description: 'The link', ...jsonBody(exportLink) },
        ...problems(400, 404, 409, 413, 415, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const { expires_in } = check(linkRequest, await readBody(request));
      await jobs.file(id, callerOf(response).access);
      // The link has whole seconds.
      const expiresAt = Math.floor(clock.now() / 1000 + expires_in) * 1000;
      const path = `/api/exports/${id}/file`;
      const url = `${path}?${await links.sign(path, expiresAt)}`;
      sendJson(response, 200, { url, expires_at: isoTime(expiresAt) });
    },
  };
}

function manifestRoute(jobs: ExportJobService): Route {
  return {
    method: 'get',
    path: '/api/exports/:id/manifest',
    access: 'export',
    operation: {
      summary: 'Get the manifest, which proves that the file is complete',
      tags: ['exports'],
      requestParams: { path: pathId },
      responses: {
        200: { description: 'The manifest', ...jsonBody(exportManifest) },
        ...problems(400, 404, 409, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      sendJson(response, 200, await jobs.manifest(id, callerOf(response).access));
    },
  };
}
