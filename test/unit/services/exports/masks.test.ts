import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Retention } from '../../../../src/domain/conversations/retention.ts';
import { type ExportScope, type ExportSource, pageOf } from '../../../../src/domain/exports/exports.ts';
import type { ExportRequest, JobScope } from '../../../../src/domain/exports/jobs.ts';
import { maskInSteps } from '../../../../src/filter/index.ts';
import { CursorCodec } from '../../../../src/services/exports/cursor-codec.ts';
import { ExportService } from '../../../../src/services/exports/exports.ts';
import { EMPTY_CHECKPOINT } from '../../../../src/services/exports/write-export.ts';

const SCOPE: ExportScope = {
  filter: { owner: null, from: null, to: null, role: null, status: null },
  conversationId: null,
  activeSince: 0,
  since: null,
  lastCreated: 0,
};
const REQUEST: ExportRequest = {
  format: 'ndjson',
  raw: false,
  compression: 'none',
  filter: SCOPE.filter,
  since: null,
  notify: { email: null, webhook: null },
};

function service(masked: boolean): ExportService {
  const message = { uid: 'u', role: 'user', content: '13812345678', timestamp: 't', status: 'complete' };
  const none = { title: null, metadata: null, system: null, model: null, parameters: null, pinned: false };
  const settings = { ...none, user: 'zoe@example.com' };
  const conversation = { id: 'c', createdAt: 't', lastActive: 't', settings };
  const source: ExportSource = {
    scope: () => Promise.resolve(SCOPE),
    count: () => Promise.resolve({ conversations: 1, messages: 1 }),
    async *deletions() {},
    async *read() {
      yield pageOf([{ conversation, messages: [message], begins: true, ends: true }]);
    },
  };
  const cursors = new CursorCodec(async () => ['a secret']);
  const personal = { mask: maskInSteps, masked };
  return new ExportService(source, cursors, { now: () => 0 }, new Retention(0), {
    personal,
  });
}

async function made(exports: ExportService, scope: JobScope): Promise<{ text: string; masked: boolean }> {
  let text = '';
  for await (const piece of exports.fileText(REQUEST, scope, EMPTY_CHECKPOINT)) text += piece.text;
  const source = { request: REQUEST, scope, startedAt: 0 };
  const { pii_masked } = await exports.manifest(source, EMPTY_CHECKPOINT, '');
  return { text, masked: pii_masked ?? false };
}

describe('an export job', () => {
  it('is masked as at its start, also when another process resumes it', async () => {
    const begun = await service(true).fixScope(REQUEST);
    const { text, masked } = await made(service(false), begun);
    assert.ok(text.includes('138****5678'), text);
    assert.ok(text.includes('"user":"z***@example.com"'), text);
    assert.ok(masked);
  });

  it('does not start masking midway, and its manifest does not claim it', async () => {
    const { masked: _, ...begunLongAgo } = await service(false).fixScope(REQUEST);
    for (const scope of [begunLongAgo, await service(false).fixScope(REQUEST)]) {
      const { text, masked } = await made(service(true), scope);
      assert.ok(text.includes('13812345678'), text);
      assert.ok(!masked);
    }
  });
});
