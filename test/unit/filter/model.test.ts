import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ChatModel } from '../../../src/domain/chat/model.ts';
import type { FilterAction } from '../../../src/domain/filter.ts';
import { createWordFilters, Fold, filterReplies } from '../../../src/filter/index.ts';
import { textReader } from '../../support/fakes.ts';

const words = { filters: createWordFilters(['敏感词'], new Fold()) };
const REQUEST = { model: 'm', messages: [], parameters: {} };
const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
const outcome = { finishReason: 'stop', usage, model: 'm-1', truncated: false } as const;
const live = () => new AbortController().signal;

function filtered(action: FilterAction, model: Partial<ChatModel>) {
  const whole: ChatModel = {
    complete: () => Promise.reject(new Error('not asked')),
    stream: () => Promise.reject(new Error('not asked')),
    probe: () => Promise.resolve('up' as const),
    openCircuits: () => [],
    ...model,
  };
  return filterReplies(whole, { words, action });
}

const saying =
  (...pieces: string[]): ChatModel['stream'] =>
  async (_request, on) => {
    for (const piece of pieces) on.content(piece);
    return outcome;
  };

describe('a filtered model', () => {
  it('masks a reply while it arrives, and emits held-back text at its end', async () => {
    const pieces: string[] = [];
    const model = filtered('mask', { stream: saying('很**敏', '感**词', '好敏') });
    assert.deepEqual(
      await model.stream(
        REQUEST,
        textReader((piece) => pieces.push(piece)),
        live(),
      ),
      outcome,
    );
    assert.equal(pieces.join(''), '很**〇〇**〇好敏');
    assert.ok(!pieces.includes(''));
  });

  it('masks a whole reply, or ends it before the first word', async () => {
    const complete = () => Promise.resolve({ ...outcome, content: '很敏感词好' });
    assert.deepEqual(await filtered('mask', { complete }).complete(REQUEST, live()), {
      ...outcome,
      content: '很〇〇〇好',
    });
    assert.deepEqual(await filtered('block', { complete }).complete(REQUEST, live()), {
      ...outcome,
      content: '很',
      finishReason: 'content_filter',
    });
  });

  it('aborts a blocked call, and completes the reply', async () => {
    const pieces: string[] = [];
    let aborted = false;
    const stream: ChatModel['stream'] = (_request, on, signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          aborted = true;
          reject(signal.reason);
        });
        for (const piece of ['很敏', '感词', '更多']) on.content(piece);
      });
    const ended = await filtered('block', { stream }).stream(
      REQUEST,
      textReader((piece) => pieces.push(piece)),
      live(),
    );
    assert.deepEqual(ended, { finishReason: 'content_filter', usage: null, model: 'm', truncated: false });
    assert.deepEqual([pieces.join(''), aborted], ['很', true]);
  });

  it('completes a blocked reply that ended before it could be aborted', async () => {
    const pieces: string[] = [];
    const model = filtered('block', { stream: saying('很敏感词好') });
    assert.deepEqual(
      await model.stream(
        REQUEST,
        textReader((piece) => pieces.push(piece)),
        live(),
      ),
      {
        ...outcome,
        finishReason: 'content_filter',
      },
    );
    assert.equal(pieces.join(''), '很');
  });

  it('emits held-back text and the error when the reply fails', async () => {
    const pieces: string[] = [];
    const fault = new Error('upstream');
    const stream: ChatModel['stream'] = async (_request, on) => {
      on.content('很敏感');
      throw fault;
    };
    const model = filtered('mask', { stream });
    await assert.rejects(
      model.stream(
        REQUEST,
        textReader((piece) => pieces.push(piece)),
        live(),
      ),
      fault,
    );
    assert.equal(pieces.join(''), '很敏感');
  });

  it('rejects with the caller’s reason when the caller aborts', async () => {
    const quit = new AbortController();
    const stream: ChatModel['stream'] = (_request, _on, signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason));
      });
    const asked = filtered('mask', { stream }).stream(REQUEST, textReader(), quit.signal);
    const reason = new Error('enough');
    quit.abort(reason);
    await assert.rejects(asked, reason);
  });

  describe('filters the reasoning', () => {
    const read = async (model: ChatModel) => {
      const pieces: string[] = [];
      const ended = await model.stream(
        REQUEST,
        {
          content: (text) => pieces.push(`c:${text}`),
          reasoning: (text) => pieces.push(`r:${text}`),
        },
        live(),
      );
      return { pieces, ended };
    };
    const thinking: ChatModel['stream'] = async (_request, on) => {
      for (const piece of ['想敏', '感词', '好敏']) on.reasoning(piece);
      on.content('感词');
      on.reasoning('感');
      return outcome;
    };

    it('while it arrives, apart from the text', async () => {
      const { pieces, ended } = await read(filtered('mask', { stream: thinking }));
      assert.deepEqual(ended, outcome);
      assert.deepEqual(pieces, ['r:想', 'r:〇〇〇', 'r:好', 'r:敏', 'c:感词', 'r:感']);
    });

    it('and ends it where a word is blocked, but not the reply', async () => {
      const { pieces, ended } = await read(filtered('block', { stream: thinking }));
      assert.deepEqual([pieces, ended], [['r:想', 'c:感词'], outcome]);
    });

    it('of whole replies, and leaves tool calls as they are', async () => {
      const toolCalls = [
        { id: 'a', type: 'function', function: { name: 'f', arguments: '敏感词' } },
      ] as const;
      const reply = { ...outcome, content: '好', reasoning: '想敏感词', toolCalls };
      const complete = () => Promise.resolve(reply);
      assert.deepEqual(await filtered('mask', { complete }).complete(REQUEST, live()), {
        ...reply,
        reasoning: '想〇〇〇',
      });
      assert.deepEqual(await filtered('block', { complete }).complete(REQUEST, live()), {
        ...reply,
        reasoning: '想',
      });
      const only = { ...outcome, content: '好', reasoning: '敏感词' };
      const blocked = filtered('block', { complete: () => Promise.resolve(only) });
      assert.deepEqual(await blocked.complete(REQUEST, live()), { ...outcome, content: '好' });
    });
  });
});
