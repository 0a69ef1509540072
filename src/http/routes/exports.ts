import type { Request, Response } from 'express';
import { ownerFilter } from '../../domain/access.ts';
import type { Clock } from '../../domain/runtime.ts';
import type { ConversationService } from '../../services/conversations/conversations.ts';
import type { ExportForm, ExportService, ExportTarget } from '../../services/exports/exports.ts';
import { callerOf } from '../access/caller.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { sendDownload } from '../response/download.ts';
import { mediaTypeOf } from '../response/export-presenters.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { conversationId } from '../schemas/conversations.ts';
import { exportAllQuery, exportFile, exportPreview, exportQuery } from '../schemas/exports.ts';
import { problems } from '../schemas/openapi.ts';

const FILE = {
  description: 'The file, or with `preview` its first rows',
  headers: { 'Content-Disposition': { schema: { type: 'string' as const } } },
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
      description: 'Oldest first, streamed. A file that breaks off did so by a broken connection.',
      tags: ['exports'],
      requestParams: { query: exportAllQuery },
      responses: { 200: FILE, ...problems(400, 503) },
    },
    async handle(request, response) {
      const { start_date, end_date, role, status, ...asked } = readQuery(request, exportAllQuery);
      const filter = {
        owner: ownerFilter(callerOf(response).access),
        from: start_date ?? null,
        to: end_date ?? null,
        role: role ?? null,
        status: status ?? null,
      };
      const day = new Date(clock.now()).toISOString().slice(0, 10);
      await answer(exports, { filter }, asked, `conversations-${day}`, request, response);
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
      requestParams: { path: conversationId, query: exportQuery },
      responses: { 200: FILE, ...problems(400, 404, 503) },
    },
    async handle(request, response) {
      const { id } = check(conversationId, request.params);
      const asked = readQuery(request, exportQuery);
      await conversations.view(id, callerOf(response).access);
      await answer(exports, { conversationId: id }, asked, `conversation-${id}`, request, response);
    },
  };
}

interface Asked {
  readonly format: ExportForm['format'];
  readonly csv?: 'raw' | undefined;
  readonly preview?: number | undefined;
}

async function answer(
  exports: ExportService,
  target: ExportTarget,
  { format, csv, preview }: Asked,
  name: string,
  request: Request,
  response: Response,
): Promise<void> {
  const form = { format, raw: csv === 'raw' };
  if (preview !== undefined) return sendJson(response, 200, await exports.preview(target, form, preview));
  await sendDownload(request, response, {
    name: `${name}.${format}`,
    type: mediaTypeOf(format),
    // The JSON says its counts itself, at its end.
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
