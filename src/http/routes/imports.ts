import type { Request } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { ImportService } from '../../services/imports/imports.ts';
import { callerOf } from '../access/caller.ts';
import { receiveBlocks } from '../request/body.ts';
import { importEntries } from '../request/import-file.ts';
import { readQuery } from '../request/query.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { importCounts, importQuery } from '../schemas/imports.ts';
import { jsonBody, problemResponse, problems } from '../schemas/openapi.ts';

const EXAMPLE = `{"conversation_id":"01a20289-46f6-7000-a1c2-0d5a3f0e7b11","created_at":"2026-03-21T08:30:00.000Z","last_active":"2026-03-21T08:30:00.000Z","messages":[]}
`;

const TYPE = /^application\/(?:x-)?ndjson\s*(?:;|$)/i;

/**
 * One import runs at a time in this process, because its body is in memory. Bodies that are still received take no
 * slot, so that a slow sender delays no other import. All bodies in memory together are limited.
 * @param maxBytes of a body, also after decompression
 */
export function importRoute(imports: ImportService, maxBytes: number): Route {
  const maxHeld = 2 * maxBytes;
  let held = 0;
  let isRunning = false;
  return {
    method: 'post',
    path: '/api/imports',
    access: 'admin',
    operation: {
      summary: 'Import an NDJSON export',
      description:
        'Conversations keep their ids and times. New ones belong to the owner of the key. Each is one transaction, and a ' +
        'line that fails does not stop the others; repeating an import is safe.',
      tags: ['exports'],
      requestParams: { query: importQuery },
      requestBody: {
        required: true,
        content: { 'application/x-ndjson': { schema: { type: 'string' }, example: EXAMPLE } },
      },
      responses: {
        200: { description: 'The body is read to its end', ...jsonBody(importCounts) },
        ...problems(400, 413, 503),
        415: problemResponse('The body is not NDJSON'),
      },
    },
    async handle(request, response) {
      const { replace, pin } = readQuery(request, importQuery);
      let size = 0;
      const hold = (bytes: number) => {
        size += bytes;
        held += bytes;
        if (held > maxHeld) throw importBusy();
      };
      try {
        checkType(request);
        if (isRunning) throw importBusy();
        const blocks = await receiveBlocks(request, maxBytes, hold);
        if (isRunning) throw importBusy();
        isRunning = true;
        const { owner } = callerOf(response).access;
        const options = { owner, replace, pin, replacesOwner: false };
        const counts = await imports.run(importEntries(blocks), options).finally(() => {
          isRunning = false;
        });
        sendJson(response, 200, counts);
      } finally {
        held -= size;
        // See createBodyReader.
        request.resume();
      }
    },
  };
}

function importBusy(): AppError {
  const detail = 'Another import is running; try again when it has ended';
  return new AppError('capacity', detail, { retryAfter: 5 });
}

function checkType(request: Request): void {
  if (TYPE.test(request.headers['content-type'] ?? '')) return;
  const detail = 'Send the body as NDJSON with Content-Type: application/x-ndjson';
  throw new AppError('unsupported_media_type', detail);
}
