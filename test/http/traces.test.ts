import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node';
import { type ChatServer, startChat, until } from '../support/chat-server.ts';
import { status } from '../support/fake-upstream.ts';

const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';
const traceparent = `00-${TRACE_ID}-${PARENT}-01`;
const INVALID = [
  `00-${TRACE_ID}-${PARENT}`,
  `00-${'0'.repeat(32)}-${PARENT}-01`,
  `00-${TRACE_ID}-${'0'.repeat(16)}-01`,
  `ff-${TRACE_ID}-${PARENT}-01`,
  `00-${TRACE_ID.toUpperCase()}-${PARENT}-01`,
  `${traceparent}-more`,
  'none',
];

describe('traces', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat();
  });
  after(() => chat.stop());

  const ask = (headers: Record<string, string>, path = '/api/chat') =>
    chat.call('POST', path, { message: 'traced', cache: false }, headers);
  const sent = () => chat.upstream.requests.at(-1)?.headers;
  const requestLine = (id: unknown) =>
    until('the request line', () =>
      chat.server.lines.find(({ msg, request_id }) => msg === 'request' && request_id === id),
    );

  for (const path of ['/api/chat', '/api/chat-stream']) {
    it(`of callers of ${path} are logged and sent on unchanged`, async () => {
      const { headers } = await ask({ traceparent, tracestate: 'vendor=1' }, path);
      assert.equal(sent()?.traceparent, traceparent);
      assert.equal(sent()?.tracestate, 'vendor=1');
      assert.equal((await requestLine(headers['x-request-id'])).trace_id, TRACE_ID);
    });
  }

  it('are not made up, and invalid ones are ignored', async () => {
    for (const header of [undefined, ...INVALID]) {
      const { headers } = await ask(
        header === undefined ? {} : { traceparent: header, tracestate: 'vendor=1' },
      );
      assert.deepEqual([sent()?.traceparent, sent()?.tracestate], [undefined, undefined], header);
      assert.equal((await requestLine(headers['x-request-id'])).trace_id, undefined, header);
    }
  });

  it('of a later version are accepted', async () => {
    await ask({ traceparent: `01-${TRACE_ID}-${PARENT}-01-what-the-future-will-bring` });
    assert.match(String(sent()?.traceparent), /^01-/);
  });

  describe('with a registered SDK', () => {
    const exporter = new InMemorySpanExporter();
    before(() => new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }).register());
    after(() => trace.disable());

    it('have a span for each call, the child of the caller’s and the parent of the model server’s', async () => {
      const answer = await ask({ traceparent });
      const span = exporter.getFinishedSpans().at(-1);
      assert(span);
      assert.equal(span.name, 'chat gpt-4o-mini');
      assert.equal(span.kind, SpanKind.CLIENT);
      assert.deepEqual([span.spanContext().traceId, span.parentSpanContext?.spanId], [TRACE_ID, PARENT]);
      assert.deepEqual(span.attributes, {
        'gen_ai.operation.name': 'chat',
        'gen_ai.provider.name': 'openai',
        'gen_ai.request.model': 'gpt-4o-mini',
        'gen_ai.response.model': 'fake-model',
        'gen_ai.response.finish_reasons': ['stop'],
        'gen_ai.usage.input_tokens': 3,
        'gen_ai.usage.output_tokens': 5,
        'gen_ai.conversation.id': JSON.parse(answer.text).conversation_id,
        'server.address': '127.0.0.1',
      });
      assert.equal(sent()?.traceparent, `00-${TRACE_ID}-${span.spanContext().spanId}-01`);
    });

    it('have the error of a call that failed, and a span without a caller’s trace', async () => {
      chat.upstream.respond([status(500)]);
      await ask({});
      const span = exporter.getFinishedSpans().at(-1);
      assert.equal(span?.attributes['error.type'], 'upstream_error');
      assert.equal(span?.status.code, SpanStatusCode.ERROR);
      assert.equal(span?.parentSpanContext, undefined);
      assert.equal(sent()?.traceparent, `00-${span?.spanContext().traceId}-${span?.spanContext().spanId}-01`);
    });
  });
});
