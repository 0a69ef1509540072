import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createResponseCache } from '../../../src/cache/response-cache.ts';
import type { ContextMessage } from '../../../src/domain/conversation.ts';
import { AppError } from '../../../src/domain/errors.ts';
import type {
  ChatModel,
  ModelRequest,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../../src/domain/ports.ts';
import { type ChatInput, ChatService, type ChatSettings } from '../../../src/services/chat.ts';
import { Generations } from '../../../src/services/generations.ts';
import { silentLog } from '../../support/fakes.ts';

const HOUR = 3_600_000;
const NOW = Date.UTC(2026, 2, 21);
const SETTINGS: ChatSettings = {
  model: 'm',
  systemPrompt: undefined,
  temperature: undefined,
  maxTokens: undefined,
  historyLimit: 10,
  ttlMs: 24 * HOUR,
};

/** Writes by hand: the test says when and how each one ends. */
class HandWriter implements TurnWriter {
  readonly writes: { unit: TurnWrite; done(outcome?: WriteOutcome): void; fail(error: Error): void }[] = [];
  automatic = true;

  write(unit: TurnWrite): Promise<WriteOutcome> {
    const { promise, resolve, reject } = Promise.withResolvers<WriteOutcome>();
    this.writes.push({ unit, done: (outcome = 'saved') => resolve(outcome), fail: reject });
    if (this.automatic) resolve('saved');
    return promise;
  }

  idle = () => Promise.resolve();
}

function setUp(
  options: { settings?: Partial<ChatSettings>; history?: ContextMessage[]; model?: Partial<ChatModel> } = {},
) {
  const requests: ModelRequest[] = [];
  const histories: unknown[][] = [];
  const writer = new HandWriter();
  const model: ChatModel = {
    async complete(request) {
      requests.push(request);
      return { content: '答', finishReason: 'stop', usage: null, model: 'm-1', truncated: false };
    },
    async stream(request, onDelta) {
      requests.push(request);
      onDelta('答');
      return { finishReason: 'stop', usage: null, model: 'm-1', truncated: false };
    },
    reachable: () => Promise.resolve(true),
    ...options.model,
  };
  let id = 0;
  const chat = new ChatService(
    { ...SETTINGS, ...options.settings },
    {
      conversations: {
        find: () => Promise.resolve(null),
        history: (...args) => {
          histories.push(args);
          return Promise.resolve(options.history ?? []);
        },
        messages: () => Promise.resolve([]),
        list: () => Promise.resolve([]),
        delete: () => Promise.resolve(false),
        check: () => Promise.resolve(),
      },
      writer,
      generations: new Generations(model, createResponseCache(100_000, HOUR), 10, silentLog),
      clock: { now: () => NOW },
      ids: {
        next: () => {
          id += 1;
          return `id-${id}`;
        },
      },
      log: silentLog,
    },
  );
  return { chat, writer, requests, histories };
}

const ask = (input: Partial<ChatInput> = {}): ChatInput => ({
  message: 'q',
  conversationId: undefined,
  model: undefined,
  cache: true,
  ...input,
});

describe('a turn', () => {
  it('stores the question first, the reply after it, paired', async () => {
    const { chat, writer } = setUp();
    const turn = await chat.begin(ask(), 'stream');
    const result = await turn.result;
    assert.equal(result.persisted, true);
    assert.equal(result.content, '答');
    assert.equal(result.expiresAt, NOW + 24 * HOUR);
    const [start, reply] = writer.writes.map(({ unit }) => unit);
    assert.equal(start?.start?.named, false);
    assert.equal(start?.start?.message.content, 'q');
    assert.equal(reply?.reply?.replyTo, start?.start?.message.uid);
    assert.equal(reply?.reply?.uid, turn.messageId);
    assert.equal(reply?.reply?.status, 'complete');
    assert.equal(reply?.reply?.model, 'm-1');
  });

  it('asks the model before the question is committed, and says it has started only after', async () => {
    const { chat, writer, requests } = setUp();
    writer.automatic = false;
    const turn = await chat.begin(ask(), 'stream');
    await turn.generation.ended;
    assert.equal(requests.length, 1);
    let started = false;
    void turn.started.then(() => {
      started = true;
    });
    await new Promise(setImmediate);
    assert.equal(started, false);
    assert.equal(writer.writes.length, 1, 'the reply waits for its question');
    writer.writes[0]?.done();
    await turn.started;
    await new Promise(setImmediate);
    writer.writes[1]?.done();
    assert.equal((await turn.result).persisted, true);
  });

  it('sends system prompt, stored turns and question, in this order', async () => {
    const history: ContextMessage[] = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
    ];
    const { chat, requests, histories } = setUp({
      history,
      settings: { systemPrompt: 'be kind', temperature: 0.5, maxTokens: 9 },
    });
    await (await chat.begin(ask({ conversationId: 'c', model: 'other' }), 'whole')).result;
    assert.deepEqual(requests[0], {
      model: 'other',
      messages: [{ role: 'system', content: 'be kind' }, ...history, { role: 'user', content: 'q' }],
      temperature: 0.5,
      maxTokens: 9,
    });
    assert.deepEqual(histories[0], ['c', 10, NOW - 24 * HOUR]);
  });

  it('asks for no history where there can be none', async () => {
    const { chat, histories } = setUp();
    await (await chat.begin(ask(), 'whole')).result;
    assert.equal(histories.length, 0);
  });

  it('from the cache is stored in one go, question and reply', async () => {
    const { chat, writer, requests } = setUp();
    await (await chat.begin(ask(), 'whole')).result;
    const turn = await chat.begin(ask(), 'stream');
    assert.equal(turn.cache.kind, 'hit');
    assert.equal((await turn.result).content, '答');
    assert.equal(requests.length, 1);
    assert.equal(writer.writes.length, 2);
    assert.ok(writer.writes[1]?.unit.start && writer.writes[1].unit.reply);
  });

  it('whose question cannot be stored fails, and its call is ended', async () => {
    let aborted = false;
    const { chat, writer } = setUp({
      model: {
        stream: (_request, _onDelta, signal) =>
          new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => {
              aborted = true;
              reject(signal.reason);
            });
          }),
      },
    });
    writer.automatic = false;
    const turn = await chat.begin(ask(), 'stream');
    writer.writes[0]?.fail(new AppError('database_unavailable'));
    await assert.rejects(turn.started, { code: 'database_unavailable' });
    await assert.rejects(turn.result, { code: 'database_unavailable' });
    assert.equal(aborted, true);
    assert.equal(writer.writes.length, 1);
  });

  it('that broke off keeps what was said, as incomplete', async () => {
    const { chat, writer } = setUp({
      model: {
        async stream(_request, onDelta) {
          onDelta('half');
          throw new AppError('upstream_incomplete');
        },
      },
    });
    const turn = await chat.begin(ask(), 'stream');
    await assert.rejects(turn.result, { code: 'upstream_incomplete' });
    const reply = writer.writes[1]?.unit.reply;
    assert.deepEqual([reply?.content, reply?.status, reply?.finishReason], ['half', 'incomplete', 'error']);
  });

  it('that failed before a word leaves only its question', async () => {
    const { chat, writer } = setUp({
      model: { complete: () => Promise.reject(new AppError('upstream_busy')) },
    });
    const turn = await chat.begin(ask(), 'whole');
    await assert.rejects(turn.result, { code: 'upstream_busy' });
    await chat.idle();
    assert.equal(writer.writes.length, 1);
  });

  it('cut by a cap of this server ends well, with length, stored as incomplete', async () => {
    const { chat, writer } = setUp({
      model: {
        async stream(_request, onDelta) {
          onDelta('long');
          return { finishReason: 'length', usage: null, model: 'm', truncated: true };
        },
      },
    });
    const result = await (await chat.begin(ask(), 'stream')).result;
    assert.equal(result.finishReason, 'length');
    assert.equal(writer.writes[1]?.unit.reply?.status, 'incomplete');
  });

  it('whose reply cannot be saved still gives it, and says so', async () => {
    for (const end of ['gone', 'failed'] as const) {
      const { chat, writer } = setUp();
      writer.automatic = false;
      const turn = await chat.begin(ask(), 'stream');
      writer.writes[0]?.done();
      await turn.started;
      await turn.generation.ended;
      await new Promise(setImmediate);
      if (end === 'gone') writer.writes[1]?.done('gone');
      else writer.writes[1]?.fail(new AppError('database_unavailable'));
      const result = await turn.result;
      assert.equal(result.content, '答');
      assert.equal(result.persisted, false);
    }
  });

  it('that nobody can have heard of yet is written in one go, at its end', async () => {
    const { chat, writer } = setUp();
    const result = await (await chat.begin(ask(), 'whole')).result;
    assert.equal(result.persisted, true);
    assert.equal(writer.writes.length, 1);
    assert.ok(writer.writes[0]?.unit.start && writer.writes[0].unit.reply);
  });

  it('in a conversation that the caller named stores its question first: a deletion meanwhile must win', async () => {
    const { chat, writer } = setUp();
    await (await chat.begin(ask({ conversationId: 'c' }), 'whole')).result;
    assert.equal(writer.writes.length, 2);
    assert.ok(writer.writes[0]?.unit.start && !writer.writes[0].unit.reply);
  });

  it('is saved although nobody waits for it', async () => {
    const { chat, writer } = setUp();
    await chat.begin(ask(), 'stream');
    await chat.idle();
    assert.equal(writer.writes.length, 2);
  });

  it('of a conversation that is kept for ever has no end to tell', async () => {
    const { chat } = setUp({ settings: { ttlMs: 0 } });
    assert.equal((await (await chat.begin(ask(), 'whole')).result).expiresAt, null);
  });
});
