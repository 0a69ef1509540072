import type { Attributes } from '@opentelemetry/api';
import type { CallContext, ChatModel, ModelOutcome, ModelRequest } from '../domain/chat/model.ts';
import { OPERATION, PROVIDER } from './gen-ai.ts';
import { failureOf } from './measured-model.ts';

export interface TraceOptions {
  readonly version: string;
  /** The host of the model server. */
  readonly serverAddress: string;
  /** `traceparent` and `tracestate` of the current request. */
  readonly headers: () => Readonly<Record<string, string>> | undefined;
}

/**
 * Passes the caller's trace context to the model server. If an OpenTelemetry SDK is registered, each call has a span,
 * which is the parent that the model server gets.
 */
export function traceCalls(model: ChatModel, options: TraceOptions): ChatModel {
  const traced = <O extends ModelOutcome>(
    request: ModelRequest,
    signal: AbortSignal,
    context: CallContext | undefined,
    call: (context: CallContext | undefined) => Promise<O>,
  ): Promise<O> => {
    const headers = options.headers();
    if (isSdkRegistered())
      return withSpan(options, request, signal, { ...context, ...(headers && { headers }) }, call);
    return call(headers ? { ...context, headers } : context);
  };
  return {
    complete: (request, signal, context) =>
      traced(request, signal, context, (inner) => model.complete(request, signal, inner)),
    stream: (request, on, signal, context) =>
      traced(request, signal, context, (inner) => model.stream(request, on, signal, inner)),
    probe: (signal) => model.probe(signal),
    openCircuits: () => model.openCircuits(),
  };
}

/** The global symbol under which all versions of `@opentelemetry/api` keep the registered SDK. */
const REGISTERED = Symbol.for('opentelemetry.js.api.1');

/** Looks at the global symbol, so that `@opentelemetry/api` is not loaded without an SDK. */
function isSdkRegistered(): boolean {
  const registered: unknown = Reflect.get(globalThis, REGISTERED);
  return typeof registered === 'object' && registered !== null && 'trace' in registered;
}

async function withSpan<O extends ModelOutcome>(
  { version, serverAddress }: TraceOptions,
  { model }: ModelRequest,
  signal: AbortSignal,
  context: CallContext,
  call: (context: CallContext) => Promise<O>,
): Promise<O> {
  const api = await import('@opentelemetry/api');
  const active = api.context.active();
  // The parent is the span of the HTTP request if the operator instruments HTTP, otherwise the caller's span.
  const parent = api.trace.getSpan(active) ? active : api.propagation.extract(active, context.headers ?? {});
  const attributes: Attributes = {
    'gen_ai.operation.name': OPERATION,
    'gen_ai.provider.name': PROVIDER,
    'gen_ai.request.model': model,
    'server.address': serverAddress,
    ...(context.conversationId !== undefined && { 'gen_ai.conversation.id': context.conversationId }),
  };
  const tracer = api.trace.getTracer('chat-api-server', version);
  const span = tracer.startSpan(`chat ${model}`, { kind: api.SpanKind.CLIENT, attributes }, parent);
  const inside = api.trace.setSpan(parent, span);
  const headers: Record<string, string> = { ...context.headers };
  api.propagation.inject(inside, headers);
  try {
    const outcome = await api.context.with(inside, () => call({ ...context, headers }));
    span.setAttributes(outcomeAttributes(outcome));
    return outcome;
  } catch (error) {
    span.setAttribute('error.type', failureOf(error, signal));
    span.setStatus({ code: api.SpanStatusCode.ERROR });
    throw error;
  } finally {
    span.end();
  }
}

function outcomeAttributes({ model, finishReason, usage }: ModelOutcome): Attributes {
  return {
    'gen_ai.response.model': model,
    'gen_ai.response.finish_reasons': [finishReason],
    ...(usage && {
      'gen_ai.usage.input_tokens': usage.prompt_tokens,
      'gen_ai.usage.output_tokens': usage.completion_tokens,
    }),
  };
}
