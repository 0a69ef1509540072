/** Bodies of chats that must be refused, and those at the limits that must not. */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { text as readText } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, problemOf, startChat } from '../support/chat-server.ts';

const PNG = Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex');
const GIF = Buffer.from('GIF89a\x01\x00\x01\x00\x80\x00', 'latin1');
const SVG = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>');
const IMAGE_MAX = 30_000;
const IMAGES_MAX = 70_000;
const MAX_CHARS = 1000;

const image = (url: unknown, more: object = {}) => ({ type: 'image_url', image_url: { url, ...more } });
const text = (content: unknown) => ({ type: 'text', text: content });
const base64 = (type: string, data: string) => `data:image/${type};base64,${data}`;
const png = (bytes = PNG.length) => {
  const data = Buffer.alloc(bytes, 0xfb);
  PNG.copy(data);
  return base64('png', data.toString('base64'));
};
const tool = (called: unknown) => ({ type: 'function', function: called });
const parameters = (value: object) => ({ message: 'x', parameters: value });
const metadata = (value: unknown) => ({ message: 'x', metadata: value });
const members = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, n) => [`m${n}`, '']));
const ID = '0198c0de-7a11-7000-8000-5eed00000000';
const results = (value: unknown) => ({ conversation_id: ID, tool_results: value });
const nested = (depth: number): unknown => (depth === 0 ? 1 : [nested(depth - 1)]);

/** What is wrong, the body (text is sent as it is), and the path of the error. */
const REFUSED: readonly (readonly [string, unknown, string])[] = [
  ['no question', {}, 'message'],
  ['null', { message: null }, 'message'],
  ['a number', { message: 5 }, 'message'],
  ['one part alone', { message: text('x') }, 'message'],
  ['blank text', { message: ' \n\t' }, 'message'],
  ['no parts', { message: [] }, 'message'],
  ['blank parts', { message: [text(' '), text('\n')] }, 'message'],
  ['17 parts', { message: Array(17).fill(text('x')) }, 'message'],
  ['too long text', { message: 'x'.repeat(MAX_CHARS + 1) }, 'message'],
  [
    'too long parts',
    { message: [text('x'.repeat(MAX_CHARS / 2)), text('x'.repeat(MAX_CHARS / 2))] },
    'message',
  ],
  ['a lone surrogate', '{"message":"\\ud83d"}', 'message'],
  ['NUL', { message: 'a\0' }, 'message'],
  ['NUL in a part', { message: [text('a\0')] }, 'message.0.text'],
  ['a lone surrogate in a part', '{"message":[{"type":"text","text":"\\udc00"}]}', 'message.0.text'],
  ['an empty text part', { message: [text('x'), text('')] }, 'message.1.text'],
  ['text that is a number', { message: [text(5)] }, 'message.0.text'],
  ['a part of null', { message: [null] }, 'message.0'],
  ['a part that is text', { message: ['x'] }, 'message.0'],
  ['a part that is an array', { message: [[text('x')]] }, 'message.0'],
  ['a part without a type', { message: [{ text: 'x' }] }, 'message.0.type'],
  ['audio', { message: [{ type: 'input_audio', input_audio: {} }] }, 'message.0.type'],
  ['a type of a prototype', { message: [{ type: 'constructor', text: 'x' }] }, 'message.0.type'],
  [
    'an unknown member of a part',
    { message: [{ ...text('x'), cache_control: {} }] },
    'message.0.cache_control',
  ],
  ['__proto__ in a part', '{"message":[{"type":"text","text":"x","__proto__":{}}]}', 'message.0.__proto__'],
  ['no image', { message: [{ type: 'image_url' }] }, 'message.0.image_url'],
  ['an image that is text', { message: [{ type: 'image_url', image_url: png() }] }, 'message.0.image_url'],
  ['an image without a URL', { message: [{ type: 'image_url', image_url: {} }] }, 'message.0.image_url.url'],
  ['an unknown detail', { message: [image(png(), { detail: 'best' })] }, 'message.0.image_url.detail'],
  ...Object.entries({
    'http:': 'http://example.com/a.png',
    'file:': 'file:///etc/passwd',
    'javascript:': 'javascript:alert(1)',
    'a path': '/a.png',
    'no host': 'https://',
    'white space': 'https://example.com/a b.png',
    'a line break': 'https://example.com/\na.png',
    'too long': `https://example.com/${'a'.repeat(8192)}`,
    'a number': 5,
    empty: '',
    'data without a type': 'data:;base64,AAAA',
    'data that is text': 'data:text/html;base64,AAAA',
    SVG: base64('svg+xml', SVG.toString('base64')),
    'SVG that says PNG': base64('png', SVG.toString('base64')),
    'GIF that says PNG': base64('png', GIF.toString('base64')),
    'PNG that says WebP': base64('webp', PNG.toString('base64')),
    'no base64': `data:image/png,${PNG.toString('latin1')}`,
    'no data': base64('png', ''),
    'only padding': base64('png', '===='),
    'line breaks': base64('png', PNG.toString('base64').replace(/.{8}/g, '$&\r\n')),
    'white space in front': ` ${png()}`,
    'white space in the data': base64('png', ` ${PNG.toString('base64')}`),
    'the alphabet for URLs': png(30).replaceAll('+', '-').replaceAll('/', '_'),
    'no padding': png().replace(/=+$/, ''),
    'too much padding': `${png()}==`,
    'padding inside': base64('png', `${Buffer.from(PNG.subarray(0, 10)).toString('base64')}AAAA`),
    'another character': png().replace('iVBOR', 'iVBO!'),
    'a wide character with the byte of another one': png().replace('iVBOR', 'iVBO\u0152'),
    'one byte too much': png(IMAGE_MAX + 1),
  }).map(
    ([name, url]) => [`an image URL: ${name}`, { message: [image(url)] }, 'message.0.image_url.url'] as const,
  ),
  [
    'images that are too long together',
    { message: [image(png(IMAGE_MAX)), image(png(IMAGE_MAX)), image(png(IMAGES_MAX - 2 * IMAGE_MAX + 1))] },
    'message',
  ],
  ['a system prompt that is too long', { message: 'x', system: 'x'.repeat(MAX_CHARS + 1) }, 'system'],
  ['a system prompt of null', { message: 'x', system: null }, 'system'],
  ['NUL in the system prompt', { message: 'x', system: '\0' }, 'system'],
  ['parameters of text', { message: 'x', parameters: '{}' }, 'parameters'],
  ['parameters of null', { message: 'x', parameters: null }, 'parameters'],
  ['parameters in an array', { message: 'x', parameters: [] }, 'parameters'],
  ['an unknown parameter', parameters({ top_k: 5 }), 'parameters.top_k'],
  ['a parameter constructor', parameters({ constructor: 5 }), 'parameters.constructor'],
  [
    'a parameter __proto__',
    '{"message":"x","parameters":{"__proto__":{"temperature":1}}}',
    'parameters.__proto__',
  ],
  ['a temperature of text', parameters({ temperature: '0.5' }), 'parameters.temperature'],
  ['a temperature below 0', parameters({ temperature: -0.01 }), 'parameters.temperature'],
  ['a temperature over 2', parameters({ temperature: 2.01 }), 'parameters.temperature'],
  ['an infinite temperature', '{"message":"x","parameters":{"temperature":1e999}}', 'parameters.temperature'],
  ['top_p over 1', parameters({ top_p: 1.1 }), 'parameters.top_p'],
  ['no tokens', parameters({ max_tokens: 0 }), 'parameters.max_tokens'],
  ['half a token', parameters({ max_tokens: 1.5 }), 'parameters.max_tokens'],
  [
    'tokens beyond every number',
    '{"message":"x","parameters":{"max_tokens":1e400}}',
    'parameters.max_tokens',
  ],
  ['a seed beyond the whole numbers', parameters({ seed: 2 ** 53 }), 'parameters.seed'],
  ['a penalty below -2', parameters({ frequency_penalty: -2.1 }), 'parameters.frequency_penalty'],
  ['17 stops', parameters({ stop: Array(17).fill('x') }), 'parameters.stop'],
  ['an empty stop', parameters({ stop: ['x', ''] }), 'parameters.stop.1'],
  ['a stop of null', parameters({ stop: [null] }), 'parameters.stop.0'],
  ['NUL in a stop', parameters({ stop: '\0' }), 'parameters.stop'],
  ['no tools', parameters({ tools: [] }), 'parameters.tools'],
  ['129 tools', parameters({ tools: Array(129).fill(tool({ name: 'a' })) }), 'parameters.tools'],
  ['a tool without a name', parameters({ tools: [tool({})] }), 'parameters.tools.0'],
  ['a tool whose name is an array', parameters({ tools: [tool({ name: ['a'] })] }), 'parameters.tools.0'],
  ['a tool whose name is a number', parameters({ tools: [tool({ name: 5 })] }), 'parameters.tools.0'],
  ['a tool with a space in its name', parameters({ tools: [tool({ name: 'a b' })] }), 'parameters.tools.0'],
  ['NUL in a tool', parameters({ tools: [tool({ name: 'a', description: '\0' })] }), 'parameters.tools.0'],
  [
    'a lone surrogate in a name of a schema',
    `{"message":"x","parameters":{"tools":[{"type":"function","function":{"name":"a","parameters":{"\\ud83d":1}}}]}}`,
    'parameters.tools.0',
  ],
  [
    'tool parameters in an array',
    parameters({ tools: [tool({ name: 'a', parameters: [] })] }),
    'parameters.tools.0',
  ],
  ['a choice that is unknown', parameters({ tool_choice: 'any' }), 'parameters.tool_choice'],
  ['a format without a type', parameters({ response_format: {} }), 'parameters.response_format'],
  [
    '__proto__ deep in a format',
    '{"message":"x","parameters":{"response_format":{"type":"json_schema","a":[{"__proto__":1}]}}}',
    'parameters.response_format',
  ],
  ['parallel calls of text', parameters({ parallel_tool_calls: 'yes' }), 'parameters.parallel_tool_calls'],
  ['extra in an array', parameters({ extra: [] }), 'parameters.extra'],
  ['__proto__ in extra', '{"message":"x","parameters":{"extra":{"__proto__":{"a":1}}}}', 'parameters.extra'],
  [
    'a number beyond every number in extra',
    '{"message":"x","parameters":{"extra":{"a":[1e999]}}}',
    'parameters.extra',
  ],
  ['NUL in extra', parameters({ extra: { a: { b: '\0' } } }), 'parameters.extra'],
  [
    'a lone surrogate as a name in extra',
    '{"message":"x","parameters":{"extra":{"\\udc00":1}}}',
    'parameters.extra',
  ],
  ...[
    'messages',
    'model',
    'stream',
    'stream_options',
    'user',
    'n',
    'max_completion_tokens',
    'temperature',
    'tools',
  ].map(
    (name) => [`${name} in extra`, parameters({ extra: { [name]: 1 } }), `parameters.extra.${name}`] as const,
  ),
  [
    'extra that takes null for a member of the server',
    parameters({ extra: { messages: null } }),
    'parameters.extra.messages',
  ],
  ['an empty user', { message: 'x', user: '' }, 'user'],
  ['a user of null', { message: 'x', user: null }, 'user'],
  ['a user of 129 characters', { message: 'x', user: 'x'.repeat(129) }, 'user'],
  ['NUL in a user', { message: 'x', user: 'a\0' }, 'user'],
  ['metadata of null', metadata(null), 'metadata'],
  ['metadata in an array', metadata([]), 'metadata'],
  ['metadata of text', metadata('x'), 'metadata'],
  ['17 members of metadata', metadata(members(17)), 'metadata'],
  ['a number in metadata', metadata({ a: 5 }), 'metadata.a'],
  ['null in metadata', metadata({ a: null }), 'metadata.a'],
  ['513 characters in metadata', metadata({ a: 'x'.repeat(513) }), 'metadata.a'],
  ['a name of 65 characters in metadata', metadata({ ['x'.repeat(65)]: '' }), `metadata.${'x'.repeat(64)}`],
  ['an empty name in metadata', metadata({ '': 'x' }), 'metadata.'],
  ['__proto__ in metadata', '{"message":"x","metadata":{"__proto__":"a"}}', 'metadata.__proto__'],
  ['NUL in metadata', metadata({ a: '\0' }), 'metadata.a'],
  ['a lone surrogate as a name in metadata', '{"message":"x","metadata":{"\\ud83d":""}}', 'metadata.\ufffd'],
  ['reasoning of text', { message: 'x', reasoning: 'true' }, 'reasoning'],
  [
    'a message together with results',
    { message: 'x', ...results([{ tool_call_id: 'a', content: '' }]) },
    'tool_results',
  ],
  [
    'results without a conversation',
    { tool_results: [{ tool_call_id: 'a', content: '' }] },
    'conversation_id',
  ],
  ['no results', results([]), 'tool_results'],
  ['results in an object', results({ a: 1 }), 'tool_results'],
  [
    '129 results',
    results(Array.from({ length: 129 }, (_, n) => ({ tool_call_id: `c${n}`, content: '' }))),
    'tool_results',
  ],
  ['a repeated result', results(Array(2).fill({ tool_call_id: 'a', content: '' })), 'tool_results'],
  [
    'an id of 4,097 characters',
    results([{ tool_call_id: 'x'.repeat(4097), content: '' }]),
    'tool_results.0.tool_call_id',
  ],
  ['an id that is a number', results([{ tool_call_id: 1, content: '' }]), 'tool_results.0.tool_call_id'],
  ['a result without content', results([{ tool_call_id: 'a' }]), 'tool_results.0.content'],
  ['a result that is an object', results([{ tool_call_id: 'a', content: {} }]), 'tool_results.0.content'],
  [
    'a result that is too long',
    results([{ tool_call_id: 'a', content: 'x'.repeat(MAX_CHARS + 1) }]),
    'tool_results.0.content',
  ],
  ['NUL in a result', results([{ tool_call_id: 'a', content: '\0' }]), 'tool_results.0.content'],
  [
    'an unknown member of a result',
    results([{ tool_call_id: 'a', content: '', name: 'x' }]),
    'tool_results.0.name',
  ],
];

const TAKEN: readonly (readonly [string, unknown])[] = [
  ['16 parts', { message: Array(16).fill(text('x')) }],
  ['text of the longest length', { message: 'x'.repeat(MAX_CHARS) }],
  [
    'parts of the longest length',
    { message: [text('x'.repeat(MAX_CHARS / 2)), text('x'.repeat(MAX_CHARS / 2 - 1))] },
  ],
  ['an image of the largest size', { message: [image(png(IMAGE_MAX))] }],
  [
    'images of the largest size',
    { message: [image(png(IMAGE_MAX)), image(png(IMAGE_MAX)), image(png(IMAGES_MAX - 2 * IMAGE_MAX))] },
  ],
  ['16 https: images', { message: Array(16).fill(image('https://user:pass@example.com/a.png?x=%00#y')) }],
  ['an image type in capitals', { message: [image(`DATA:image/PNG;base64,${PNG.toString('base64')}`)] }],
  [
    'metadata of the largest size',
    metadata(
      Object.fromEntries(
        Array.from({ length: 16 }, (_, n) => [`${n}`.padStart(64, '\u0001'), '\u0001'.repeat(512)]),
      ),
    ),
  ],
  ['metadata with names of prototypes', metadata({ constructor: 'a', toString: 'b', hasOwnProperty: 'c' })],
  ['a user of 128 characters', { message: 'x', user: '\u{1f600}'.repeat(64) }],
  ['null parameters', parameters({ temperature: null, tools: null, extra: null })],
  ['null in extra', parameters({ extra: { a: null, constructor: { prototype: 1 } } })],
  ['nesting of 59 levels in extra', parameters({ extra: { a: nested(59) } })],
  ['an unknown member', { message: 'x', constructor: 1, hasOwnProperty: 2 }],
];

describe('bodies of chats', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({
      IMAGE_MAX_BYTES: String(IMAGE_MAX),
      IMAGES_MAX_BYTES: String(IMAGES_MAX),
      MESSAGE_MAX_CHARS: String(MAX_CHARS),
      BODY_LIMIT: '64kb',
    });
  });
  after(() => chat.stop());

  const send = async (body: unknown, path = '/api/chat') => {
    const headers = { 'content-type': 'application/json' };
    const outgoing = request(`${chat.url}${path}`, { method: 'POST', headers, agent: false });
    outgoing.end(typeof body === 'string' ? body : JSON.stringify(body));
    const [response] = await new Promise<[import('node:http').IncomingMessage]>((resolve, reject) => {
      outgoing.once('response', (head) => resolve([head])).once('error', reject);
    });
    return { status: response.statusCode ?? 0, headers: response.headers, text: await readText(response) };
  };

  for (const [name, body, path] of REFUSED) {
    it(`are refused: ${name}`, async () => {
      const asked = chat.upstream.requests.length;
      for (const route of ['/api/chat', '/api/chat-stream']) {
        const { errors = [], detail } = problemOf(await send(body, route), 400, 'validation');
        assert(
          errors.some((error) => error.path === path),
          JSON.stringify(errors),
        );
        assert(detail.length < 400, detail);
      }
      assert.equal(chat.upstream.requests.length, asked);
    });
  }

  for (const [name, body] of TAKEN) {
    it(`are taken: ${name}`, async () => {
      const answer = await send(body);
      assert.equal(answer.status, 200, answer.text.slice(0, 500));
    });
  }

  for (const [name, body, status, code] of [
    ['nesting beyond 64 levels', parameters({ extra: { a: nested(62) } }), 400, 'malformed_json'],
    ['a body beyond BODY_LIMIT', { message: 'x', other: 'x'.repeat(64 * 1024) }, 413, 'body_too_large'],
    ['image data outside of the message', { message: 'x', other: png(65_000) }, 413, 'body_too_large'],
    ['10 MB of base64', { message: [image(base64('png', 'A'.repeat(10_000_000)))] }, 413, 'body_too_large'],
    ['22 MB of base64', { message: [image(base64('png', 'A'.repeat(22_000_000)))] }, 413, 'body_too_large'],
    [
      'results for an unknown conversation',
      results([{ tool_call_id: 'x'.repeat(4096), content: '' }]),
      404,
      'conversation_not_found',
    ],
  ] as const) {
    it(`are refused: ${name}`, async () => {
      problemOf(await send(body), status, code);
      problemOf(await send(body, '/api/chat-stream'), status, code);
    });
  }
});

describe('a server without extra parameters', () => {
  it('refuses them in turns and conversations, even empty ones', async (t) => {
    const chat = await startChat({ ALLOW_EXTRA_PARAMETERS: 'off' });
    t.after(() => chat.stop());
    for (const [path, body] of [
      ['/api/chat', parameters({ extra: { a: 1 } })],
      ['/api/chat-stream', parameters({ extra: {} })],
      ['/api/conversations', { parameters: { extra: { a: 1 } } }],
    ] as const) {
      const { errors } = problemOf(await chat.call('POST', path, body), 400, 'validation');
      assert.equal(errors?.[0]?.path, 'parameters.extra');
      assert.match(errors?.[0]?.message ?? '', /ALLOW_EXTRA_PARAMETERS/);
    }
    assert.equal((await chat.call('POST', '/api/chat', parameters({ extra: null }))).status, 200);
    assert.equal(chat.upstream.requests.length, 1);
  });
});
