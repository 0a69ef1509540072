import type { TestContext } from 'node:test';
import type { ChatModel, ModelOutcome, ModelRequest } from '../../src/domain/chat/model.ts';
import type { Log } from '../../src/domain/runtime.ts';
import { createChatModel, type ModelOptions, type OpenedModel } from '../../src/llm/model.ts';
import { type FakeUpstream, startFakeUpstream } from '../support/fake-upstream.ts';
// Loaded on the first call otherwise, which takes longer than the short timeouts of these tests.
import '../../src/llm/transport/client.ts';

export const KEY = 'sk-planted-0123456789abcdef';

const GENEROUS: Omit<ModelOptions, 'baseUrl'> = {
  apiKey: KEY,
  headers: {},
  timeoutMs: 20_000,
  firstTokenTimeoutMs: 20_000,
  idleTimeoutMs: 20_000,
  maxRetries: 2,
  refused: [],
  retryBaseMs: 2,
  replyMaxBytes: 1_000_000,
  replyMaxMs: 20_000,
  logErrors: true,
  reasoningTags: true,
};

export interface Setup {
  readonly upstream: FakeUpstream;
  readonly model: OpenedModel;
  /** Every log line: level, fields and message. */
  readonly lines: readonly { level: string; fields: object; message: string }[];
}

/** A model against a fake upstream of its own; both end with the test. Times are generous unless options say less. */
export async function setUp(t: TestContext, options: Partial<ModelOptions> = {}): Promise<Setup> {
  const upstream = await startFakeUpstream();
  const lines: { level: string; fields: object; message: string }[] = [];
  const write = (level: string) => (fields: object, message: string) => {
    lines.push({ level, fields, message });
  };
  const log: Log = { info: write('info'), warn: write('warn'), error: write('error') };
  const model = createChatModel({ ...GENEROUS, baseUrl: upstream.baseUrl, ...options }, log);
  t.after(async () => {
    await model.close();
    await upstream.close();
  });
  return { upstream, model, lines };
}

export const HELLO: ModelRequest = {
  model: 'asked-model',
  messages: [{ role: 'user', content: 'hello' }],
  parameters: {},
};

/** A signal that is never aborted. */
export const never = (): AbortSignal => new AbortController().signal;

export interface Streamed {
  readonly deltas: string[];
  readonly reasoning: string[];
  readonly outcome: Promise<ModelOutcome>;
}

/** Streams a reply, keeping the pieces. */
export function startStream(model: ChatModel, signal = never(), onDelta = (_: string) => {}): Streamed {
  const deltas: string[] = [];
  const reasoning: string[] = [];
  const content = (text: string) => {
    deltas.push(text);
    onDelta(text);
  };
  const outcome = model.stream(HELLO, { content, reasoning: (text) => reasoning.push(text) }, signal);
  // Tests look at it later; until then its failure is not unhandled.
  outcome.catch(() => {});
  return { deltas, reasoning, outcome };
}
