import type { IncomingMessage } from 'node:http';
import OpenAI from 'openai';
import type { ModelRequest } from '../../domain/model.ts';
import { Transport } from './transport.ts';

export interface ClientOptions {
  readonly apiKey: string | undefined;
  readonly baseUrl: string | undefined;
  readonly headers: Readonly<Record<string, string>>;
}

type FetchParameters = Parameters<OpenAI['fetchWithTimeout']>;
type BuildParameters = Parameters<OpenAI['buildRequest']>;
type BuiltRequest = Awaited<ReturnType<OpenAI['buildRequest']>>;

/** Longest delay a timer takes: the deadlines are kept elsewhere. */
const NO_TIMEOUT = 2 ** 31 - 1;

/** Stands for every answer towards the SDK, which so neither reads bodies nor makes errors of them. */
const ANSWERED = new Response(null);

/**
 * The SDK's client on Node's own HTTP, by the two methods that it has for that. Its `fetch` option would do as well,
 * but costs each call a timer, two linked signals, a `Response` and new headers: more than all the rest of a call.
 */
class NodeOpenAI extends OpenAI {
  readonly #transport = new Transport();
  /** By the signal of the call, which is the one thing that travels through the SDK as it is. */
  readonly #answers = new WeakMap<AbortSignal, IncomingMessage>();
  /** Per path, the request as the SDK makes it: address, credentials and headers are the same for every call. */
  readonly #made = new Map<string, BuiltRequest>();
  readonly #plainHeaders = new WeakMap<Headers, Record<string, string>>();

  override async buildRequest(...[options, attempt]: BuildParameters): Promise<BuiltRequest> {
    const { method, path, body, signal } = options;
    const known = this.#made.get(path);
    if (known) return { ...known, req: { ...known.req, body: JSON.stringify(body), signal: signal ?? null } };
    const made = await super.buildRequest(options, attempt);
    const { headers } = made.req;
    if (method === 'post') this.#made.set(path, { ...made, req: { method, headers } });
    return made;
  }

  override async fetchWithTimeout(url: FetchParameters[0], init: FetchParameters[1]): Promise<Response> {
    const { signal, method = 'GET', headers, body } = init ?? {};
    if (!signal) throw new TypeError('a call without a signal');
    if (!(headers instanceof Headers)) throw new TypeError('headers of another kind');
    if (body !== undefined && body !== null && typeof body !== 'string')
      throw new TypeError('not a text body');
    const request = {
      url: url instanceof Request ? url.url : String(url),
      method: method.toUpperCase(),
      headers: this.#plain(headers),
      body: body ?? undefined,
    };
    this.#answers.set(signal, await this.#transport.send(request, signal));
    return ANSWERED;
  }

  #plain(headers: Headers): Record<string, string> {
    let plain = this.#plainHeaders.get(headers);
    if (!plain) {
      plain = { 'accept-encoding': 'identity', ...Object.fromEntries(headers) };
      this.#plainHeaders.set(headers, plain);
    }
    return plain;
  }

  answerOf(signal: AbortSignal): IncomingMessage {
    const answer = this.#answers.get(signal);
    if (!answer) throw new TypeError('a call without an answer');
    return answer;
  }

  closeConnections(): void {
    this.#transport.close();
  }
}

/** The calls to the model server. Each resolves with the answer's head, whatever its status; the signal ends it. */
export class ModelServerClient {
  readonly #sdk: NodeOpenAI;

  constructor({ apiKey, baseUrl, headers }: ClientOptions) {
    this.#sdk = new NodeOpenAI({
      // The SDK insists on a key; servers on the own machine often want none, then nothing is sent.
      apiKey: apiKey ?? 'none',
      defaultHeaders: apiKey === undefined ? { Authorization: null, ...headers } : headers,
      // null keeps the SDK from looking into the environment by itself.
      baseURL: baseUrl ?? null,
      adminAPIKey: null,
      organization: null,
      project: null,
      webhookSecret: null,
      logLevel: 'off',
      maxRetries: 0,
      timeout: NO_TIMEOUT,
    });
  }

  async chat(request: ModelRequest, stream: boolean, signal: AbortSignal): Promise<IncomingMessage> {
    const { model, temperature, maxTokens } = request;
    const body = {
      model,
      messages: request.messages.map(({ role, content }) => ({ role, content })),
      ...(temperature === undefined ? {} : { temperature }),
      ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }),
    };
    const { completions } = this.#sdk.chat;
    if (stream) {
      const options = { stream: true, stream_options: { include_usage: true } } as const;
      await completions.create({ ...body, ...options }, { signal }).asResponse();
    } else {
      await completions.create({ ...body, stream: false }, { signal }).asResponse();
    }
    return this.#sdk.answerOf(signal);
  }

  async models(signal: AbortSignal): Promise<IncomingMessage> {
    await this.#sdk.models.list({ signal }).asResponse();
    return this.#sdk.answerOf(signal);
  }

  close(): void {
    this.#sdk.closeConnections();
  }
}

/** Whether the request was made and went out, and the connection failed. */
export function isConnectionError(error: unknown): error is Error {
  return error instanceof OpenAI.APIConnectionError;
}
