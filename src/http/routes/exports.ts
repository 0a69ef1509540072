import type { Request, Response } from 'express';
import type { z } from 'zod';
import { ownerFilter } from '../../domain/access/access.ts';
import type { Clock } from '../../domain/runtime.ts';
import { isoTime } from '../../domain/time.ts';
import type { ConversationService } from '../../services/conversations/conversations.ts';
import type { ExportService, ExportTarget } from '../../services/exports/exports.ts';
import { callerOf } from '../access/caller.ts';
import { exportFilterOf } from '../request/export-request.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { closeSignal } from '../response/close-signal.ts';
import { sendDownload } from '../response/download.ts';
import { mediaTypeOf } from '../response/media-types.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { pathId } from '../schemas/common.ts';
import { exportAllQuery, exportFile, exportPreview, exportQuery } from '../schemas/exports.ts';
import { problems } from '../schemas/openapi.ts';

const FILE = {
  description: 'The file, or its first rows with `preview`',
  headers: {
    'Content-Disposition': { description: 'With the name of the file', schema: { type: 'string' as const } },
  },
  content: {
    'application/json': { schema: exportFile.or(exportPreview) },
    'text/csv': { schema: { type: 'string' as const } },
    'application/x-ndjson': { schema: { type: 'string' as const } },
  },
};

export function exportRoutes(
  exports: ExportService,
  conversations: ConversationService,
  clock: Clock,
): Route[] {
  return [exportAllRoute(exports, clock), exportOneRoute(exports, conversations)];
}

function exportAllRoute(exports: ExportService, clock: Clock): Route {
  return {
    method: 'get',
    path: '/api/conversations/export-all',
    access: 'export',
    quotas: ['exports'],
    operation: {
      summary: 'Export conversations as a file',
      description: 'Streamed, oldest first. An error after the first byte breaks the connection.',
      tags: ['exports'],
      requestParams: { query: exportAllQuery },
      responses: { 200: FILE, ...problems(400, 503) },
    },
    async handle(request, response) {
      const query = readQuery(request, exportAllQuery);
      const filter = exportFilterOf(query, ownerFilter(callerOf(response).access));
      const day = isoTime(clock.now()).slice(0, 10);
      await sendExport(exports, { filter }, query, `conversations-${day}`, request, response);
    },
  };
}

function exportOneRoute(exports: ExportService, conversations: ConversationService): Route {
  return {
    method: 'get',
    path: '/api/conversations/:id/export',
    access: 'export',
    quotas: ['exports'],
    operation: {
      summary: 'Export a conversation as a file',
      tags: ['exports'],
      requestParams: { path: pathId, query: exportQuery },
      responses: { 200: FILE, ...problems(400, 404, 503) },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const query = readQuery(request, exportQuery);
      await conversations.check(id, callerOf(response).access);
      const target = { filter: exportFilterOf(query, null), conversationId: id };
      await sendExport(exports, target, query, `conversation-${id}`, request, response);
    },
  };
}

async function sendExport(
  exports: ExportService,
  target: ExportTarget,
  { format, csv, summary, preview }: z.output<typeof exportQuery>,
  name: string,
  request: Request,
  response: Response,
): Promise<void> {
  const form = { format, raw: csv === 'raw', summary: summary === 'true' };
  if (preview !== undefined && request.method === 'HEAD') {
    // HEAD does not count as an export, so it reads nothing, and the length is unknown.
    response.type('json').setHeader('Cache-Control', 'no-store').end();
    return;
  }
  if (preview !== undefined) {
    const body = await exports.preview(target, form, preview, closeSignal(response));
    return sendJson(response, 200, body);
  }
  await sendDownload(request, response, {
    name: `${name}.${format}`,
    type: mediaTypeOf(format),
    // JSON files have the counts in their summary.
    trailers: format === 'json' ? [] : ['Export-Conversations', 'Export-Messages'],
    async open() {
      const { chunks, counts } = await exports.start(target, form);
      const total = () => {
        const { conversations, messages } = counts();
        return { 'Export-Conversations': String(conversations), 'Export-Messages': String(messages) };
      };
      return { chunks, trailers: total };
    },
  });
}
