import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createResponseCache } from '../../../../src/cache/response-cache.ts';
import type {
  ChatModel,
  ModelOutcome,
  ModelRequest,
  PieceReader,
} from '../../../../src/domain/chat/model.ts';
import { AppError } from '../../../../src/domain/errors.ts';
import { createTextFormat } from '../../../../src/markdown/index.ts';
import { Generations } from '../../../../src/services/chat/generations.ts';
import { silentLog } from '../../../support/fakes.ts';

const DONE: ModelOutcome = { finishReason: 'stop', usage: null, model: 'm', truncated: false };

interface Call {
  readonly request: ModelRequest;
  readonly signal: AbortSignal;
  say(text: string): void;
  think(text: string): void;
  end(outcome?: Partial<ModelOutcome>): void;
  fail(error: Error): void;
}

/** A model whose calls the test answers by hand. */
class HandModel implements ChatModel {
  readonly calls: Call[] = [];

  stream(request: ModelRequest, on: PieceReader, signal: AbortSignal): Promise<ModelOutcome> {
    const { promise, resolve, reject } = Promise.withResolvers<ModelOutcome>();
    signal.addEventListener('abort', () => reject(signal.reason));
    const end = (outcome: Partial<ModelOutcome> = {}) => resolve({ ...DONE, ...outcome });
    this.calls.push({ request, signal, say: on.content, think: on.reasoning, end, fail: reject });
    return promise;
  }

  async complete(request: ModelRequest, signal: AbortSignal) {
    let content = '';
    let reasoning = '';
    const collect = {
      content(text: string) {
        content += text;
      },
      reasoning(text: string) {
        reasoning += text;
      },
    };
    const outcome = await this.stream(request, collect, signal);
    return { ...outcome, content, ...(reasoning !== '' && { reasoning }) };
  }

  probe = () => Promise.resolve('up' as const);
  openCircuits = () => [];
}

const SHARED = { owner: null };

function setUp(max = 10, cacheBytes = 100_000) {
  const model = new HandModel();
  const generations = new Generations(
    model,
    createResponseCache(cacheBytes, 60_000),
    createTextFormat(),
    max,
    silentLog,
  );
  const ask = (text: string, mode: 'whole' | 'stream' = 'stream', useCache = true) =>
    generations.start(
      { model: 'm', messages: [{ role: 'user', content: text }], parameters: {} },
      mode,
      useCache ? SHARED : undefined,
    );
  return { model, generations, ask };
}

describe('identical questions in flight', () => {
  it('share one call, each reader seeing all of it', async () => {
    const { model, ask } = setUp();
    const first = ask('q');
    model.calls[0]?.say('a');
    const second = ask('q');
    assert.equal(first.cache.kind, 'miss');
    assert.equal(second.cache.kind, 'collapsed');
    assert.equal(second.generation, first.generation);
    model.calls[0]?.say('b');
    model.calls[0]?.end();
    await second.generation.ended;
    assert.equal(second.generation.text, 'ab');
    assert.equal(model.calls.length, 1);
  });

  it('are not shared between another model, other parameters or another context', () => {
    const { model, generations } = setUp();
    const base: ModelRequest = { model: 'm', messages: [{ role: 'user', content: 'q' }], parameters: {} };
    const variants: ModelRequest[] = [
      base,
      { ...base, model: 'n' },
      { ...base, parameters: { temperature: 0 } },
      { ...base, parameters: { max_tokens: 5 } },
      { ...base, messages: [{ role: 'system', content: 'q' }] },
      {
        ...base,
        messages: [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }, ...base.messages],
      },
      { ...base, messages: [{ role: 'user', content: 'a","assistant","b' }, ...base.messages] },
    ];
    for (const variant of variants)
      assert.equal(generations.start(variant, 'stream', SHARED).cache.kind, 'miss');
    assert.equal(model.calls.length, variants.length);
  });

  it('are joined by a caller of the whole reply, but no stream joins a whole reply', () => {
    const { model, ask } = setUp();
    assert.equal(ask('q', 'whole').cache.kind, 'miss');
    assert.equal(ask('q', 'stream').cache.kind, 'miss');
    assert.equal(ask('q', 'whole').cache.kind, 'collapsed');
    assert.equal(ask('q', 'stream').cache.kind, 'collapsed');
    assert.equal(model.calls.length, 2);
  });

  it('continue for the others when one turn leaves, and end with the last one', async () => {
    const { model, ask } = setUp();
    const { generation } = ask('q');
    const releaseFirst = generation.hold();
    const releaseSecond = ask('q').generation.hold();
    releaseFirst(new AppError('internal'));
    releaseFirst(new AppError('internal'));
    assert.equal(model.calls[0]?.signal.aborted, false);
    releaseSecond(new AppError('internal', 'gone'));
    assert.equal(model.calls[0]?.signal.aborted, true);
    await generation.ended;
    assert.equal(generation.error?.message, 'gone');
    assert.equal(ask('q').cache.kind, 'miss');
  });
});

describe('the response cache', () => {
  it('answers the same question again, as a stream and whole', async () => {
    const { model, ask } = setUp();
    const first = ask('q');
    model.calls[0]?.say('answer');
    model.calls[0]?.end({ usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 } });
    await first.generation.ended;
    for (const mode of ['stream', 'whole'] as const) {
      const again = ask('q', mode);
      assert.equal(again.cache.kind, 'hit');
      assert.equal(again.generation.text, 'answer');
      assert.deepEqual(again.generation.outcome?.usage, {
        prompt_tokens: 1,
        completion_tokens: 2,
        total_tokens: 3,
      });
    }
    assert.equal(model.calls.length, 1);
  });

  for (const [what, end] of Object.entries({
    'was cut by a limit': (call: Call) => call.end({ finishReason: 'length' }),
    'was cut by a cap of this server': (call: Call) => call.end({ finishReason: 'length', truncated: true }),
    'was filtered': (call: Call) => call.end({ finishReason: 'content_filter' }),
    failed: (call: Call) => call.fail(new AppError('upstream_incomplete')),
  })) {
    it(`caches no reply that ${what}`, async () => {
      const { model, ask } = setUp();
      const { generation } = ask('q');
      const call = model.calls[0];
      assert.ok(call);
      call.say('half');
      end(call);
      await generation.ended;
      assert.equal(ask('q').cache.kind, 'miss');
    });
  }

  it('is bypassed on request, for reading, joining and storing', async () => {
    const { model, ask } = setUp();
    assert.equal(ask('q', 'stream', false).cache.kind, 'bypass');
    assert.equal(ask('q', 'stream', false).cache.kind, 'bypass');
    const own = ask('other', 'stream', false);
    model.calls[2]?.say('x');
    model.calls[2]?.end();
    await own.generation.ended;
    assert.equal(ask('other').cache.kind, 'miss');
    assert.equal(model.calls.length, 4);
  });

  it('can be turned off', async () => {
    const { ask } = setUp(10, 0);
    assert.equal(ask('q').cache.kind, 'bypass');
    assert.equal(ask('q').cache.kind, 'bypass');
  });

  it('never holds more bytes than it may', async () => {
    const { model, ask } = setUp(10, 20_000);
    const keep = async (question: string, length: number) => {
      const { generation } = ask(question);
      model.calls.at(-1)?.say('x'.repeat(length));
      model.calls.at(-1)?.end();
      await generation.ended;
    };
    await keep('one', 4000);
    await keep('two', 4000);
    await keep('three', 4000);
    await keep('huge', 40_000);
    assert.deepEqual(
      ['one', 'two', 'three', 'huge'].map((question) => ask(question).cache.kind),
      ['miss', 'hit', 'hit', 'miss'],
    );
  });
});

describe('generations', () => {
  it('are bounded; beyond that a question gets 503', async () => {
    const { model, ask, generations } = setUp(2);
    const one = ask('a').generation;
    ask('b');
    assert.throws(() => ask('c'), { code: 'capacity', status: 503, retryAfter: 1 });
    assert.equal(ask('a').cache.kind, 'collapsed');
    model.calls[0]?.end();
    await one.ended;
    assert.equal(ask('c').cache.kind, 'miss');
    assert.equal(generations.open, 2);
  });

  it('report when none is running, and can all be aborted', async () => {
    const { generations, ask } = setUp();
    const { generation } = ask('a');
    ask('b');
    const idle = generations.idle();
    generations.abortAll(new AppError('shutting_down'));
    await idle;
    assert.equal(generations.open, 0);
    assert.equal(generation.error?.code, 'shutting_down');
  });

  it('hide an unexpected error', async () => {
    const { model, ask } = setUp();
    const { generation } = ask('a');
    model.calls[0]?.fail(new TypeError('secret detail'));
    await generation.ended;
    assert.equal(generation.error?.code, 'internal');
    assert.ok(!generation.error?.message.includes('secret'));
  });
});
