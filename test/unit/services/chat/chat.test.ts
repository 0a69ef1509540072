import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createResponseCache } from '../../../../src/cache/response-cache.ts';
import { UNRESTRICTED } from '../../../../src/domain/access/access.ts';
import type { ChatModel, ModelRequest } from '../../../../src/domain/chat/model.ts';
import type { ModelParameters } from '../../../../src/domain/chat/parameters.ts';
import type {
  PendingTurns,
  ProgressOutcome,
  ReplyProgress,
  ReplyStore,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../../../src/domain/chat/turns.ts';
import type { HistoryMessage } from '../../../../src/domain/conversations/conversation.ts';
import { Retention } from '../../../../src/domain/conversations/retention.ts';
import { AppError } from '../../../../src/domain/errors.ts';
import { createTextFormat } from '../../../../src/markdown/index.ts';
import { ChatService, type ChatSettings } from '../../../../src/services/chat/chat.ts';
import { Checkpoints } from '../../../../src/services/chat/checkpoints.ts';
import { Generations } from '../../../../src/services/chat/generations.ts';
import { IdempotentTurns } from '../../../../src/services/chat/idempotent-turns.ts';
import type { ChatInput } from '../../../../src/services/chat/request/chat-input.ts';
import { newMessage } from '../../../../src/services/chat/request/new-messages.ts';
import { StoredStreams } from '../../../../src/services/chat/stored-streams.ts';
import { TurnObserver } from '../../../../src/services/chat/timing/turn-observer.ts';
import { TurnRecorder } from '../../../../src/services/chat/turn-recorder.ts';
import { ExportThrottle } from '../../../../src/services/exports/throttle.ts';
import { silentLog, silentMetrics } from '../../../support/fakes.ts';

const HOUR = 3_600_000;
const NOW = Date.UTC(2026, 2, 21);
const SETTINGS: ChatSettings = {
  model: 'm',
  systemPrompt: undefined,
  parameters: {},
  allowsExtra: false,
  historyLimit: 10,
  historyMaxTokens: undefined,
  retention: new Retention(24 * HOUR),
  cacheByOwner: true,
};

/** A writer whose writes the test completes. */
class HandWriter implements TurnWriter {
  readonly writes: { unit: TurnWrite; done(outcome?: WriteOutcome): void; fail(error: Error): void }[] = [];
  readonly checkpoints: string[] = [];
  automatic = true;
  progressOutcome: ProgressOutcome = 'saved';

  write(unit: TurnWrite): Promise<WriteOutcome> {
    const { promise, resolve, reject } = Promise.withResolvers<WriteOutcome>();
    this.writes.push({ unit, done: (outcome = 'saved') => resolve(outcome), fail: reject });
    if (this.automatic) resolve('saved');
    return promise;
  }

  progress(reply: ReplyProgress): Promise<ProgressOutcome> {
    const stored = this.checkpoints.join('').length;
    if (this.progressOutcome === 'saved') this.checkpoints.push(reply.after(stored));
    return Promise.resolve(this.progressOutcome);
  }

  idle = () => Promise.resolve();
}

/** A model whose text the test provides. */
class HandModel {
  say: (text: string) => void = () => {};
  finish: () => void = () => {};
  aborted: unknown;

  stream: ChatModel['stream'] = (_request, on, signal) =>
    new Promise((resolve, reject) => {
      this.say = on.content;
      this.finish = () => resolve({ finishReason: 'stop', usage: null, model: 'm-1', truncated: false });
      signal.addEventListener('abort', () => {
        this.aborted = signal.reason;
        reject(signal.reason);
      });
    });
}

const NOTHING_PENDING: PendingTurns = {
  has: () => false,
  conversation: () => null,
  reply: () => null,
  state: () => ({ turns: 0, bytes: 0, oldest: null }),
  flush: () => Promise.resolve(),
};

function setUp(
  options: {
    settings?: Partial<ChatSettings>;
    /** Of the conversation. */
    parameters?: ModelParameters;
    history?: HistoryMessage[];
    model?: Partial<ChatModel>;
    pending?: Partial<PendingTurns>;
    checkpointMs?: number;
  } = {},
) {
  const requests: ModelRequest[] = [];
  const histories: unknown[][] = [];
  const writer = new HandWriter();
  const model: ChatModel = {
    async complete(request) {
      requests.push(request);
      return { content: '答', finishReason: 'stop', usage: null, model: 'm-1', truncated: false };
    },
    async stream(request, on) {
      requests.push(request);
      on.content('答');
      return { finishReason: 'stop', usage: null, model: 'm-1', truncated: false };
    },
    probe: () => Promise.resolve('up' as const),
    openCircuits: () => [],
    ...options.model,
  };
  let id = 0;
  const settings = { ...SETTINGS, ...options.settings };
  const clock = { now: () => NOW };
  const replies: ReplyStore = {
    find: () => Promise.resolve(null),
    tail: () => Promise.resolve(null),
    cancel: () => Promise.resolve(false),
    noteFollowed: () => Promise.resolve(),
    wasRemovedAlone: () => Promise.resolve(false),
    endedElsewhere: () => Promise.resolve([]),
    key: () => Promise.resolve(null),
  };
  const pending = { ...NOTHING_PENDING, ...options.pending };
  const parts = { writer, replies, metrics: silentMetrics, worker: 'w', clock, log: silentLog, pending };
  const checkpoints = new Checkpoints(parts, options.checkpointMs ?? 60_000);
  const recorder = new TurnRecorder({ ...parts, checkpoints }, settings.retention);
  const chat = new ChatService(settings, {
    conversations: {
      find: () => Promise.resolve(null),
      message: () => Promise.resolve(null),
      messages: () => Promise.resolve({ messages: [], hasMore: false }),
      withHistory: () => Promise.resolve([]),
      setHistory: () => Promise.resolve(),
      context: (...args) => {
        histories.push(args);
        const { parameters, history: messages = [] } = options;
        const own = { user: null, metadata: null, system: null, model: null };
        const settings = parameters ? { ...own, parameters } : null;
        return Promise.resolve({ settings, pinned: false, messages });
      },
    },
    pending,
    generations: new Generations(
      model,
      createResponseCache(100_000, HOUR),
      createTextFormat(),
      10,
      silentLog,
    ),
    recorder,
    idempotent: new IdempotentTurns(replies, recorder, new StoredStreams(parts, settings.retention)),
    observer: new TurnObserver(silentMetrics, { firstTokenMs: HOUR, replyMs: HOUR }, silentLog),
    throttle: new ExportThrottle(),
    filter: undefined,
    clock,
    ids: {
      next: () => {
        id += 1;
        return `id-${id}`;
      },
    },
  });
  return { chat, recorder, writer, requests, histories };
}

const ask = (input: Partial<ChatInput> = {}): ChatInput => ({
  question: { kind: 'message', content: 'q' },
  conversationId: undefined,
  format: 'markdown',
  model: undefined,
  cache: true,
  wantsReasoning: false,
  access: UNRESTRICTED,
  ...input,
});

describe('a turn', () => {
  it('stores the question with the row of its reply first, then the end of the reply', async () => {
    const { chat, writer } = setUp();
    const turn = await chat.begin(ask({ format: 'text' }), 'stream');
    const result = await turn.result;
    assert.equal(result.persisted, true);
    assert.equal(result.content, '答');
    assert.equal(result.expiresAt, NOW + 24 * HOUR);
    const [begun, ended] = writer.writes.map(({ unit }) => unit);
    assert.equal(begun?.start?.named, false);
    assert.equal(begun?.start?.message.content, 'q');
    assert.equal(begun?.worker, 'w');
    assert.deepEqual(
      [begun?.reply?.uid, begun?.reply?.status, begun?.reply?.content, begun?.reply?.format],
      [turn.messageId, 'streaming', '', 'text'],
    );
    assert.equal(ended?.start, undefined);
    assert.equal(ended?.reply?.replyTo, begun?.start?.message.uid);
    assert.deepEqual(
      [ended?.reply?.uid, ended?.reply?.status, ended?.reply?.content, ended?.reply?.model],
      [turn.messageId, 'complete', '答', 'm-1'],
    );
  });

  it('calls the model before the question is committed, and resolves started after', async () => {
    const { chat, writer, requests } = setUp();
    writer.automatic = false;
    const turn = await chat.begin(ask(), 'stream');
    await turn.reply.ended;
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
    const history: HistoryMessage[] = [
      { role: 'user', content: 'a', uid: '1' },
      { role: 'assistant', content: 'b', uid: '2' },
    ];
    const { chat, requests, histories } = setUp({
      history,
      settings: { systemPrompt: 'be kind', parameters: { temperature: 0.5, max_tokens: 9 } },
    });
    await (await chat.begin(ask({ conversationId: 'c', model: 'other' }), 'whole')).result;
    assert.deepEqual(requests[0], {
      model: 'other',
      messages: [{ role: 'system', content: 'be kind' }, ...history, { role: 'user', content: 'q' }],
      parameters: { temperature: 0.5, max_tokens: 9 },
    });
    assert.deepEqual(histories[0]?.slice(0, 4), ['c', UNRESTRICTED, 10, NOW - 24 * HOUR]);
  });

  it('sends extra of a conversation only while it is allowed', async () => {
    const parameters = { top_p: 0.5, extra: { top_k: 20 } };
    for (const allowsExtra of [true, false]) {
      const { chat, requests } = setUp({ parameters, settings: { allowsExtra } });
      await (await chat.begin(ask({ conversationId: 'c' }), 'whole')).result;
      assert.deepEqual(requests[0]?.parameters, allowsExtra ? parameters : { top_p: 0.5 });
    }
  });

  it('sends the system prompt of a conversation that is in the journal', async () => {
    const question = newMessage('1', 'c', { role: 'user', content: 'a', replyTo: null, details: null }, NOW);
    const conversation = () => ({
      owner: null,
      messages: [question],
      user: null,
      metadata: null,
      system: 's',
    });
    const { chat, requests } = setUp({ pending: { has: () => true, conversation } });
    await (await chat.begin(ask({ conversationId: 'c' }), 'whole')).result;
    assert.deepEqual(requests[0]?.messages[0], { role: 'system', content: 's' });
  });

  it('loads no history for a new conversation', async () => {
    const { chat, histories } = setUp();
    await (await chat.begin(ask(), 'whole')).result;
    assert.equal(histories.length, 0);
  });

  it('waits until the journalled turns of its conversation are in the database', async () => {
    const waited: number[] = [];
    const flush = (ms: number) => {
      waited.push(ms);
      return waited.length > 1 ? Promise.reject(new AppError('database_unavailable')) : Promise.resolve();
    };
    const { chat, histories, requests } = setUp({ pending: { has: () => true, flush } });
    await (await chat.begin(ask({ conversationId: 'c' }), 'whole')).result;
    assert.equal(histories.length, 1);
    await assert.rejects(chat.begin(ask({ conversationId: 'c' }), 'whole'), { code: 'database_unavailable' });
    assert.equal(requests.length, 1, 'no call without the context');
  });

  it('from the cache is stored in one write, question and reply', async () => {
    const { chat, writer, requests } = setUp();
    await (await chat.begin(ask(), 'whole')).result;
    const turn = await chat.begin(ask(), 'stream');
    assert.equal(turn.cache?.kind, 'hit');
    assert.equal((await turn.result).content, '答');
    assert.equal(requests.length, 1);
    assert.equal(writer.writes.length, 2);
    assert.ok(writer.writes[1]?.unit.start && writer.writes[1].unit.reply);
  });

  it('whose question cannot be stored fails, and its call is aborted', async () => {
    const model = new HandModel();
    const { chat, writer } = setUp({ model });
    writer.automatic = false;
    const turn = await chat.begin(ask(), 'stream');
    writer.writes[0]?.fail(new AppError('database_unavailable'));
    await assert.rejects(turn.started, { code: 'database_unavailable' });
    await assert.rejects(turn.result, { code: 'database_unavailable' });
    assert.ok(model.aborted);
    assert.equal(writer.writes.length, 1);
  });

  it('that fails keeps its text, as incomplete', async () => {
    const { chat, writer } = setUp({
      model: {
        async stream(_request, on) {
          on.content('half');
          throw new AppError('upstream_incomplete');
        },
      },
    });
    const turn = await chat.begin(ask(), 'stream');
    await assert.rejects(turn.result, { code: 'upstream_incomplete' });
    const reply = writer.writes[1]?.unit.reply;
    assert.deepEqual([reply?.content, reply?.status, reply?.finishReason], ['half', 'incomplete', 'error']);
  });

  it('cut by a limit of this server succeeds, with length, stored as incomplete', async () => {
    const { chat, writer } = setUp({
      model: {
        async stream(_request, on) {
          on.content('long');
          return { finishReason: 'length', usage: null, model: 'm', truncated: true };
        },
      },
    });
    const result = await (await chat.begin(ask(), 'stream')).result;
    assert.equal(result.finishReason, 'length');
    assert.equal(writer.writes[1]?.unit.reply?.status, 'incomplete');
  });

  it('reports whether its reply was saved', async () => {
    const outcomes = [
      ['journalled', { persisted: false, finishReason: 'stop' }],
      ['stopped', { persisted: true, finishReason: 'cancelled' }],
      ['gone', 'conversation_not_found'],
      ['replaced', 'reply_incomplete'],
      [new AppError('database_unavailable'), 'database_unavailable'],
    ] as const;
    for (const [outcome, expected] of outcomes) {
      const { chat, writer } = setUp();
      writer.automatic = false;
      const turn = await chat.begin(ask(), 'stream');
      writer.writes[0]?.done();
      await turn.started;
      await turn.reply.ended;
      await new Promise(setImmediate);
      if (outcome instanceof Error) writer.writes[1]?.fail(outcome);
      else writer.writes[1]?.done(outcome);
      if (typeof expected === 'string') await assert.rejects(turn.result, { code: expected });
      else {
        const { persisted, finishReason } = await turn.result;
        assert.deepEqual({ persisted, finishReason }, expected);
      }
    }
  });

  it('in a new conversation is stored in one write, at its end', async () => {
    const { chat, writer } = setUp();
    const result = await (await chat.begin(ask(), 'whole')).result;
    assert.equal(result.persisted, true);
    assert.equal(writer.writes.length, 1);
    assert.ok(writer.writes[0]?.unit.start && writer.writes[0].unit.reply);
  });

  it('in a named conversation stores its question first, so that a deletion wins', async () => {
    const { chat, writer } = setUp();
    await (await chat.begin(ask({ conversationId: 'c' }), 'whole')).result;
    assert.equal(writer.writes.length, 2);
    assert.equal(writer.writes[0]?.unit.reply?.status, 'streaming');
  });

  it('is saved when no caller waits for it', async () => {
    const { chat, recorder, writer } = setUp();
    await chat.begin(ask(), 'stream');
    await recorder.idle();
    assert.equal(writer.writes.length, 2);
  });

  it('of a conversation without expiry has no expiresAt', async () => {
    const { chat } = setUp({ settings: { retention: new Retention(0) } });
    assert.equal((await (await chat.begin(ask(), 'whole')).result).expiresAt, null);
  });
});

describe('a running reply', () => {
  const moment = () => new Promise((resolve) => setTimeout(resolve, 5));

  it('is stored as it grows, each character once', async () => {
    const model = new HandModel();
    const { chat, writer } = setUp({ model, checkpointMs: 1 });
    const turn = await chat.begin(ask(), 'stream');
    await turn.started;
    for (const word of ['one ', 'two ', 'three']) {
      model.say(word);
      while (!writer.checkpoints.join('').endsWith(word)) await moment();
    }
    assert.equal(writer.checkpoints.join(''), 'one two three');
    model.finish();
    assert.equal((await turn.result).content, 'one two three');
  });

  it('that was stopped elsewhere ends with its text, and its call is aborted', async () => {
    const model = new HandModel();
    const { chat, writer } = setUp({ model, checkpointMs: 1 });
    const turn = await chat.begin(ask(), 'stream');
    await turn.started;
    writer.progressOutcome = 'stopped';
    model.say('so far');
    const { content, finishReason } = await turn.result;
    assert.deepEqual([content, finishReason], ['so far', 'cancelled']);
    assert.ok(model.aborted);
    assert.equal(writer.writes[1]?.unit.reply?.status, 'cancelled');
  });

  it('whose conversation was deleted elsewhere fails, and its call is aborted', async () => {
    const model = new HandModel();
    const { chat, writer } = setUp({ model, checkpointMs: 1 });
    const turn = await chat.begin(ask(), 'stream');
    await turn.started;
    writer.progressOutcome = 'gone';
    model.say('so far');
    await assert.rejects(turn.result, { code: 'conversation_not_found' });
    assert.ok(model.aborted);
  });

  it('that two turns share continues for one when the other is stopped', async () => {
    const model = new HandModel();
    const { chat } = setUp({ model });
    const one = await chat.begin(ask(), 'stream');
    const other = await chat.begin(ask(), 'stream');
    model.say('for both');
    one.reply.stop();
    model.say(', for one');
    model.finish();
    assert.equal((await one.result).content, 'for both');
    assert.equal((await other.result).content, 'for both, for one');
    assert.equal(model.aborted, undefined);
  });

  it('that cannot be saved is retried until it can', async (t) => {
    const { chat, writer } = setUp();
    t.mock.timers.enable({ apis: ['setTimeout'] });
    writer.automatic = false;
    const turn = await chat.begin(ask(), 'stream');
    writer.writes[0]?.done();
    await turn.started;
    const settled = () => new Promise(setImmediate);
    await settled();
    writer.writes[1]?.fail(new AppError('database_unavailable'));
    await assert.rejects(turn.result, { code: 'database_unavailable' });
    t.mock.timers.tick(1000);
    await settled();
    writer.writes[2]?.fail(new AppError('database_unavailable'));
    await settled();
    writer.automatic = true;
    t.mock.timers.tick(1000);
    await settled();
    t.mock.timers.tick(1000);
    await settled();
    assert.equal(writer.writes.length, 4);
    assert.deepEqual(writer.writes[3]?.unit, writer.writes[1]?.unit);
  });
});
