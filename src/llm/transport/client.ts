import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { OpenAI, type ClientOptions as SdkOptions } from 'openai';
import type { CallContext } from '../../domain/chat/model.ts';
import type { ContextMessage } from '../../domain/conversations/conversation.ts';
import { isObject } from '../../util/json.ts';
import { classifyResponse, connectionError, UpstreamError } from '../errors.ts';
import { textOf } from '../reply/shapes.ts';
import { type AdaptedRequest, optionalMembers } from '../request-form.ts';
import type { Attempt } from './attempt.ts';
import { readErrorText } from './body.ts';
import { type ProxyEnv, Transport, type WireRequest } from './transport.ts';

export interface ClientOptions {
  readonly apiKey: string | undefined;
  readonly baseUrl: string | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** Undefined: connects directly. */
  readonly proxyEnv?: ProxyEnv | undefined;
}

/** From this length on a URL is an image (`data:`), because `https:` URLs have at most 8,192 characters. */
const LONG_URL = 8193;
/** Text that needs no escapes in JSON, such as base64. */
const PLAIN = /^[ !#-[\]-~]*$/;

/** The calls to the model server. The SDK prepares one request per path; the transport sends each call. */
export class ModelServerClient {
  readonly #transport: Transport;
  readonly #chatRequest: WireRequest;
  readonly #modelsRequest: WireRequest;

  private constructor(transport: Transport, chatRequest: WireRequest, modelsRequest: WireRequest) {
    this.#transport = transport;
    this.#chatRequest = chatRequest;
    this.#modelsRequest = modelsRequest;
  }

  /** @throws UpstreamError when the options make no valid request */
  static async open(options: ClientOptions): Promise<ModelServerClient> {
    const chat = await prepareRequest(options, (sdk) =>
      sdk.chat.completions.create({ model: '', messages: [] }),
    );
    const models = await prepareRequest(options, (sdk) => sdk.models.list());
    return new ModelServerClient(new Transport(options.proxyEnv), chat, models);
  }

  /** Resolves with the head of a response whose body is a reply. Rejects with an UpstreamError. */
  async chat(
    request: AdaptedRequest,
    stream: boolean,
    attempt: Attempt,
    context: CallContext = {},
  ): Promise<IncomingMessage> {
    const body = chatJson(request, stream);
    const headers = { ...this.#chatRequest.headers, ...context.headers };
    const connected = () => context.connected?.();
    const response = await this.#send({ ...this.#chatRequest, headers, body, connected }, attempt.signal);
    const { statusCode = 0 } = response;
    if (statusCode >= 200 && statusCode < 300) return response;
    const text = await readErrorText(response);
    attempt.drainResponse(response);
    throw classifyResponse(response, text);
  }

  /** Resolves with the head of the response, whatever its status. Rejects with an UpstreamError. */
  models(signal: AbortSignal): Promise<IncomingMessage> {
    return this.#send(this.#modelsRequest, signal);
  }

  close(): void {
    this.#transport.close();
  }

  async #send(request: WireRequest, signal: AbortSignal): Promise<IncomingMessage> {
    try {
      return await this.#transport.send(request, signal);
    } catch (error) {
      throw connectionError(error);
    }
  }
}

/** The body as JSON. Each long URL of an image is a separate piece, so that it is not copied. */
function chatJson(request: AdaptedRequest, stream: boolean): string | readonly string[] {
  const body = chatBody(request, stream);
  if (!body.messages.some(({ content }) => Array.isArray(content))) return JSON.stringify(body);
  const urls: string[] = [];
  const mark = `image-${randomUUID()}`;
  const messages = body.messages.map((message) => {
    const parts: unknown = message.content;
    return Array.isArray(parts)
      ? { ...message, content: parts.map((part) => cutUrl(part, mark, urls)) }
      : message;
  });
  const json = JSON.stringify({ ...body, messages });
  if (urls.length === 0) return json;
  return json.split(mark).flatMap((piece, at) => [piece, ...urls.slice(at, at + 1)]);
}

/** Replaces a long URL in the part by `mark`, and adds it to `urls`. */
function cutUrl(part: unknown, mark: string, urls: string[]): unknown {
  if (!isObject(part) || !isObject(part.image_url)) return part;
  const url = textOf(part.image_url, 'url');
  if (url.length < LONG_URL || !PLAIN.test(url)) return part;
  urls.push(url);
  return { ...part, image_url: { ...part.image_url, url: mark } };
}

function chatBody(request: AdaptedRequest, stream: boolean) {
  const { model, parameters } = request;
  const { extra, temperature: _, max_tokens: __, ...others } = parameters;
  const messages = request.messages.map(wireMessage);
  return { ...extra, model, messages, stream, ...others, ...optionalMembers(request, stream) };
}

function wireMessage({ role, content, parts, toolCalls, toolCallId, reasoning, wire }: ContextMessage) {
  if (wire) return wire;
  if (toolCallId !== undefined) return { role, tool_call_id: toolCallId, content };
  if (!toolCalls) return { role, content: parts ?? content };
  // Some servers refuse an empty string beside tool calls.
  const text = content === '' ? null : content;
  return {
    role,
    content: text,
    ...(reasoning !== undefined && { reasoning_content: reasoning }),
    tool_calls: toolCalls,
  };
}

/**
 * The request that the SDK would send: address, credentials and headers, which are the same for every call. The `fetch`
 * option captures it and sends nothing. Sending every call through the SDK would take a third more CPU time (ADR 4).
 */
async function prepareRequest(
  { apiKey, baseUrl, headers }: ClientOptions,
  call: (sdk: OpenAI) => { asResponse(): Promise<Response> },
): Promise<WireRequest> {
  let request: WireRequest | undefined;
  const fetch: SdkOptions['fetch'] = async (url, { method = 'GET', headers: made } = {}) => {
    const plain = Object.fromEntries(new Headers(made));
    request = { url: String(url), method, headers: { 'accept-encoding': 'identity', ...plain } };
    return new Response(null);
  };
  try {
    const sdk = new OpenAI({
      fetch,
      // The SDK requires a key, but local servers often need none. `Authorization: null` below keeps it from being
      // sent.
      apiKey: apiKey ?? 'none',
      defaultHeaders: apiKey === undefined ? { Authorization: null, ...headers } : headers,
      // null keeps the SDK from reading environment variables.
      baseURL: baseUrl ?? null,
      adminAPIKey: null,
      organization: null,
      project: null,
      webhookSecret: null,
      logLevel: 'off',
      maxRetries: 0,
    });
    await call(sdk).asResponse();
  } catch {
    // Ignored: the SDK's errors may quote headers, which contain the API key.
  }
  if (!request) throw new UpstreamError('upstream_error', { reason: 'the request could not be made' });
  return request;
}
