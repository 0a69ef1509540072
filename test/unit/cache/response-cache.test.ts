import assert from 'node:assert/strict';
import { it } from 'node:test';
import { createResponseCache } from '../../../src/cache/response-cache.ts';
import type { ModelRequest } from '../../../src/domain/chat/model.ts';

const cache = createResponseCache(10_000, 60_000);
const keyOf = (request: ModelRequest, owner: string | null = null) => cache.keyOf(request, owner);
const call = (args: string) => ({
  id: 'c',
  type: 'function' as const,
  function: { name: 'f', arguments: args },
});
const image = (data: string, detail?: 'low') => ({
  type: 'image_url' as const,
  image_url: { url: `data:image/png;base64,${data}`, ...(detail !== undefined && { detail }) },
});
const [ONE, OTHER] = ['AAAA'.repeat(2000), `${'AAAA'.repeat(1999)}AAAB`];
const shown = (...parts: ReturnType<typeof image>[]) => [{ role: 'user' as const, content: 'x', parts }];
const asked = (content: string, more: object = {}) => [{ role: 'user' as const, content, ...more }];
const BASE: ModelRequest = { model: 'm', messages: asked('x'), parameters: { temperature: 1 } };

it('equal requests have equal keys, in whatever order their parameters came', () => {
  const parameters = { seed: 1, stop: ['a'], extra: { a: 1, b: { c: 2 } } };
  const same = { extra: { b: { c: 2 }, a: 1 }, stop: ['a'], seed: 1 };
  assert.equal(keyOf({ ...BASE, parameters }), keyOf({ ...BASE, parameters: same }));
  const seen = { ...BASE, messages: shown(image(ONE)) };
  assert.equal(keyOf(seen), keyOf(structuredClone(seen)));
});

it('everything that is sent to the model makes another key', () => {
  const calls = [...asked('x'), { role: 'assistant' as const, content: '', toolCalls: [call('{}')] }];
  const requests: ModelRequest[] = [
    BASE,
    { ...BASE, model: 'n' },
    { ...BASE, user: 'u' },
    { ...BASE, parameters: {} },
    { ...BASE, parameters: { temperature: 0 } },
    { ...BASE, parameters: { extra: { temperature: 1 } } },
    { ...BASE, parameters: { temperature: 1, tools: [{ type: 'function' }] } },
    { ...BASE, parameters: { temperature: 1, stop: 'a' } },
    { ...BASE, parameters: { temperature: 1, stop: ['a'] } },
    { ...BASE, parameters: { temperature: 1, extra: { a: 1 } } },
    { ...BASE, parameters: { temperature: 1, extra: { a: null } } },
    { ...BASE, messages: [{ role: 'system', content: 's' }, ...BASE.messages] },
    { ...BASE, messages: [{ role: 'user', content: 's' }, ...BASE.messages] },
    { ...BASE, messages: shown(image(ONE)) },
    { ...BASE, messages: shown(image(OTHER)) },
    { ...BASE, messages: shown(image(ONE, 'low')) },
    { ...BASE, messages: shown(image(ONE), image(OTHER)) },
    { ...BASE, messages: shown(image(OTHER), image(ONE)) },
    { ...BASE, messages: calls },
    { ...BASE, messages: [...asked('x'), { role: 'assistant', content: '', toolCalls: [call('{"a":1}')] }] },
    {
      ...BASE,
      messages: [...asked('x'), { role: 'assistant', content: '', toolCalls: [call('{}')], reasoning: 'r' }],
    },
    { ...BASE, messages: [...calls, { role: 'tool', content: 'r', toolCallId: 'c' }] },
    { ...BASE, messages: [...calls, { role: 'tool', content: 'r', toolCallId: 'd' }] },
  ];
  const keys = [...requests.map((request) => keyOf(request)), keyOf(BASE, 'owner')];
  assert.equal(new Set(keys).size, keys.length);
});

it('calls count as text of a reply', () => {
  const small = createResponseCache(2000, 60_000);
  small.set('k', {
    content: 'x',
    finishReason: 'stop',
    usage: null,
    truncated: false,
    model: 'm',
    toolCalls: [call('y'.repeat(2000))],
  });
  assert.equal(small.get('k'), undefined);
});
