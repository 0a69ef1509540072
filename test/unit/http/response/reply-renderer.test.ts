import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { FilterAction, WordFilters } from '../../../../src/domain/filter.ts';
import { createWordFilters, Fold } from '../../../../src/filter/index.ts';
import { ReplyRenderer } from '../../../../src/http/response/reply-renderer.ts';
import { contentEvent, reasoningEvent } from '../../../../src/http/sse/encode.ts';
import { SseReplyEncoder } from '../../../../src/http/sse/reply-encoder.ts';
import { createTextFormat } from '../../../../src/markdown/index.ts';
import { Generation } from '../../../../src/services/chat/generation.ts';
import { Reply } from '../../../../src/services/chat/reply.ts';

const fold = new Fold();
const filtersOf = (...words: string[]): WordFilters => createWordFilters(words, fold);
const formsOf = (filters: WordFilters, action: FilterAction) =>
  new ReplyRenderer(createTextFormat(), { words: { filters }, action });
const end = { finishReason: 'stop', usage: null, model: 'm', truncated: false } as const;

const FORMATS = ['text', 'markdown'] as const;
const ACTIONS = ['mask', 'block'] as const;

/** The contents of events, joined. */
function contents(events: string): string {
  return [...events.matchAll(/^data: (.+)$/gm)].map(([, data = '']) => JSON.parse(data).content).join('');
}

/** What a reader gets who has `from` units and comes when the first `late` pieces have been said. */
function read(
  renderer: ReplyRenderer,
  format: 'text' | 'markdown',
  pieces: string[],
  from: number,
  late: number,
) {
  const generation = new Generation();
  const reply = new Reply(generation);
  for (const piece of pieces.slice(0, late)) generation.append(piece);
  const options = { rendered: renderer.stream(reply, format), reasoning: undefined, offset: from };
  const events = new SseReplyEncoder(reply, options, {
    content: (piece, offset) => contentEvent('id', offset, piece),
    reasoning: reasoningEvent,
  });
  let output = contents(events.next() ?? '');
  for (const piece of pieces.slice(late)) {
    generation.append(piece);
    output += contents(events.next() ?? '');
  }
  generation.finish(end);
  output += contents(events.rest());
  const { offset, missing, blocked } = events;
  return { output, offset, missing, blocked, reply };
}

describe('the renderer of a reply', () => {
  const someMarkdown = fc
    .array(
      fc.constantFrom(
        ...['敏', '感', '词', '**', '_', '`', '[', '](u)', '\\', '&#25935;', '&', '#', ' ', '\n', '\n\n'],
        ...['- ', '> ', '敏感', '**敏感**词', '好', 'Ａ', 'a', 'b', '😀', '𠮷', 'é', '。', '\u200b'],
      ),
      { minLength: 1, maxLength: 16 },
    )
    .filter((parts) => parts.some((part) => part.trim() !== ''));

  it('sends a reader that resumes, at any time and offset, exactly the rest', async () => {
    const filters = filtersOf('敏感词', 'ab', '😀', '感𠮷');
    const someReply = fc.tuple(someMarkdown, fc.constantFrom(...FORMATS), fc.constantFrom(...ACTIONS));
    await fc.assert(
      fc.asyncProperty(someReply, fc.nat(16), async ([pieces, format, action], late) => {
        const renderer = formsOf(filters, action);
        const first = read(renderer, format, pieces, 0, late);
        const whole = await renderer.whole(first.reply, format, pieces.join(''));
        assert.equal(first.output, whole.text);
        assert.equal(first.blocked, whole.blocked);
        assert.equal(first.offset, whole.text.length);
        for (let from = 1; from <= whole.text.length; from++) {
          // No event ends inside a pair.
          if (/^[\udc00-\udfff]/.test(whole.text.slice(from))) continue;
          const rest = read(renderer, format, pieces, from, late);
          assert.equal(whole.text.slice(0, from) + rest.output, whole.text);
          assert.deepEqual([rest.offset, rest.missing, rest.blocked], [whole.text.length, 0, whole.blocked]);
        }
      }),
      { numRuns: 400 },
    );
  });

  it('uses the word list of the reply’s start for all its readers', async () => {
    const words = { filters: filtersOf('old') };
    const renderer = new ReplyRenderer(createTextFormat(), { words, action: 'mask' });
    const generation = new Generation();
    const reply = new Reply(generation);
    const first = renderer.stream(reply, 'text');
    words.filters = filtersOf('new');
    const second = renderer.stream(reply, 'text');
    assert.deepEqual(
      [first, second].map((form) => (form?.push('old new') ?? '') + form?.end()),
      ['*** new', '*** new'],
    );
    assert.equal((await renderer.whole(reply, 'markdown', 'old new')).text, '〇〇〇 new');
    assert.equal((await renderer.whole(new Reply(generation), 'text', 'old new')).text, 'old ***');
  });

  it('changes nothing without a filter', async () => {
    const renderer = new ReplyRenderer(createTextFormat(), undefined);
    const reply = new Reply(new Generation());
    assert.equal(renderer.stream(reply, 'markdown'), undefined);
    assert.deepEqual(await renderer.whole(reply, 'markdown', '**敏感**词'), {
      text: '**敏感**词',
      blocked: false,
    });
    assert.deepEqual(await renderer.whole(reply, 'text', '**敏感**词'), { text: '敏感词', blocked: false });
  });

  it('reports a cut reply when a changed word list blocks it earlier', () => {
    const { output, offset, missing, blocked } = read(
      formsOf(filtersOf('bad'), 'block'),
      'text',
      ['so bad'],
      6,
      1,
    );
    assert.deepEqual({ output, length: offset - missing, blocked }, { output: '', length: 3, blocked: true });
  });
});
