import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { createParser } from 'eventsource-parser';
import { chatReply } from '../../src/http/schemas/chat.ts';
import { replyEvents } from '../../src/http/schemas/streams.ts';
import { startServer, type TestServer } from '../support/server.ts';

interface Media {
  readonly schema: object;
  readonly example?: object;
}

interface Operation {
  readonly requestBody?: { readonly content: Readonly<Record<string, Media>> };
  readonly parameters?: readonly {
    readonly name: string;
    readonly example?: unknown;
    readonly schema: object;
  }[];
  readonly responses: Readonly<
    Record<string, { readonly headers?: Readonly<Record<string, { readonly description?: string }>> }>
  >;
}

type Paths = Readonly<Record<string, Readonly<Record<string, Operation>>>>;

describe('the OpenAPI document, as "Try it out" uses it,', () => {
  let server: TestServer;
  let text: string;
  let operations: { readonly method: string; readonly path: string; readonly operation: Operation }[];
  before(async () => {
    server = await startServer();
    text = await (await server.get('/openapi.json')).text();
    const { paths }: { paths: Paths } = JSON.parse(text);
    operations = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ method, path, operation })),
    );
  });
  after(() => server.stop());

  const send = (method: string, path: string, type: string, example: unknown) =>
    fetch(server.url + path.replace('{id}', crypto.randomUUID()), {
      method: method.toUpperCase(),
      headers: { 'content-type': type },
      body: typeof example === 'string' ? example : JSON.stringify(example),
    });

  it('has an example for every body, which the server accepts unchanged', async () => {
    const bodies = operations.flatMap(({ method, path, operation: { requestBody } }) =>
      Object.entries(requestBody?.content ?? {}).map(([type, { example }]) => ({
        method,
        path,
        type,
        example,
      })),
    );
    assert(bodies.length >= 5);
    // Authentication is off, and no export has that id.
    const statuses: Readonly<Record<string, number>> = {
      'post /api/conversations': 201,
      'patch /api/conversations/{id}': 404,
      'post /api/conversations/{id}/fork': 404,
      'put /api/messages/{id}/feedback': 404,
      'post /api/exports': 202,
      'post /api/exports/{id}/link': 404,
      'post /api/keys': 403,
    };
    for (const { method, path, type, example } of bodies) {
      const operation = `${method} ${path}`;
      assert(example, operation);
      assert.equal((await send(method, path, type, example)).status, statuses[operation] ?? 200, operation);
    }
  });

  it('describes what chats answer', async () => {
    const example = { message: 'Hello' };
    const chats = operations.filter(({ path, method }) => method === 'post' && path.startsWith('/api/chat'));
    for (const { operation } of chats)
      assert.deepEqual(operation.requestBody?.content['application/json']?.example, example);
    chatReply.parse(await (await server.post('/api/chat', example)).json());
    const names: (string | undefined)[] = [];
    const parser = createParser({
      onEvent({ event, data }) {
        names.push(event);
        replyEvents.parse(JSON.parse(data));
      },
    });
    parser.feed(await (await server.post('/api/chat-stream', example)).text());
    assert.deepEqual([names[0], names.at(-1)], ['start', 'done']);
    for (const schema of ['StreamStart', 'StreamContent', 'StreamDone', 'StreamError'])
      assert(text.includes(`"#/components/schemas/${schema}"`), schema);
  });

  it('fills in no id, key or number that no caller would send', () => {
    for (const { path, operation } of operations) {
      for (const { name, example, schema } of operation.parameters ?? [])
        assert(example === undefined && !('example' in schema), `${path} ${name}`);
    }
    assert.doesNotMatch(text, /9007199254740991|order-4711|5eed00000001/);
  });

  it('describes every response header', () => {
    for (const { path, operation } of operations) {
      for (const { headers = {} } of Object.values(operation.responses)) {
        for (const [name, { description }] of Object.entries(headers)) assert(description, `${path} ${name}`);
      }
    }
  });
});
