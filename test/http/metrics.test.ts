import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { type ChatServer, databases, problemOf, startChat, until } from '../support/chat-server.ts';
import { checkWithPromtool, Exposition } from '../support/exposition.ts';
import {
  createGate,
  delta,
  done,
  finish,
  json,
  role,
  script,
  silence,
  status,
  usage,
} from '../support/fake-upstream.ts';
import { bearer, type ProtectedServer, startProtected } from '../support/keys.ts';

const scrape = async ({ call }: Pick<ChatServer, 'call'>) => {
  const { status: code, text } = await call('GET', '/metrics');
  assert.equal(code, 200, text);
  return new Exposition(text);
};

describe('/metrics', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat({ SLOW_FIRST_TOKEN_MS: '40', SLOW_REPLY_MS: '80', METRICS_GENAI: 'new' });
  });
  after(() => chat.stop());

  it('counts turns, what the cache did, replays, resumed and stopped streams', async () => {
    const before = await scrape(chat);
    const headers = { 'idempotency-key': 'metrics-1' };
    const body = { message: 'count this' };
    await chat.call('POST', '/api/chat', body);
    await chat.call('POST', '/api/chat', body);
    await chat.call('POST', '/api/chat', { ...body, cache: false });
    await chat.call('POST', '/api/chat', { message: 'once' }, headers);
    await chat.call('POST', '/api/chat', { message: 'once' }, headers);
    const stream = await chat.call('POST', '/api/chat-stream', { message: 'stream this' });
    await chat.call('GET', `/api/chat-stream/${stream.headers['x-stream-id']}`);
    chat.upstream.respond([script(role(), delta('some'), silence())]);
    const held = chat.call('POST', '/api/chat-stream', { message: 'held' });
    const open = await until('the open stream', async () => {
      const now = await scrape(chat);
      return now.sum('chat_open_streams') === 1 && now;
    });
    assert.equal(open.sum('chat_generations'), 1);
    const list = JSON.parse((await chat.call('GET', '/api/conversations')).text);
    const { messages } = await chat.read(list.conversations[0].conversation_id);
    await chat.call('DELETE', `/api/chat-stream/${messages.at(-1)?.id}`);
    await held;

    const now = await scrape(chat);
    const grown = (name: string, labels = {}) => now.sum(name, labels) - before.sum(name, labels);
    assert.deepEqual(
      ['hit', 'miss', 'bypass', 'collapsed'].map((result) => grown('chat_cache_requests_total', { result })),
      [1, 4, 1, 0],
    );
    assert.equal(grown('chat_idempotent_replays_total'), 1);
    assert.equal(grown('chat_stream_resumes_total'), 1);
    assert.equal(grown('chat_stream_stops_total'), 1);
    assert.equal(grown('gen_ai_server_request_duration_seconds_count'), 6);
    assert.equal(grown('gen_ai_server_request_duration_seconds_count', { error_type: 'cancelled' }), 1);
    assert.equal(grown('gen_ai_client_operation_duration_seconds_count'), 5);
    assert.equal(grown('gen_ai_client_inference_duration_seconds_count'), 5);
    assert.equal(grown('gen_ai_server_time_to_first_token_seconds_count'), 2);
    const routed = { http_route: '/api/chat', http_request_method: 'POST', http_response_status_code: '200' };
    assert.equal(grown('http_server_request_duration_seconds_count', routed), 5);
    assert.equal(now.sum('chat_open_streams'), 0);
    assert.ok(grown('chat_writer_batch_size_count') > 0);
  });

  it('counts failed attempts and failed turns by their code', async () => {
    chat.upstream.respond([status(500)]);
    problemOf(await chat.call('POST', '/api/chat', { message: 'fail' }), 502, 'upstream_error');
    const now = await scrape(chat);
    const code = 'upstream_error';
    assert.equal(now.sum('chat_upstream_errors_total', { code }), 1);
    assert.equal(now.sum('gen_ai_client_operation_duration_seconds_count', { error_type: code }), 1);
    assert.equal(now.sum('gen_ai_server_request_duration_seconds_count', { error_type: code }), 1);
  });

  it('has the tokens that the model server reports', async () => {
    const token = (type: string) => ({ gen_ai_token_type: type, gen_ai_request_model: 'gpt-4o-mini' });
    const sums = (all: Exposition) =>
      ['input', 'output'].map((type) => all.sum('gen_ai_client_token_usage_sum', token(type)));
    const [input = 0, output = 0] = sums(await scrape(chat));
    chat.upstream.respond([script(role(), delta('a b c'), finish(), usage(7, 11), done())]);
    await chat.call('POST', '/api/chat-stream', { message: 'tokens' });
    assert.deepEqual(sums(await scrape(chat)), [input + 7, output + 11]);
  });

  it('logs a slow turn with its parts, counts it, and measures the parts', async () => {
    const gate = createGate();
    chat.upstream.respond([script(() => gate.opened, role(), delta('late'), finish(), usage(), done())]);
    // On a busy machine others may have been slow before.
    const id = crypto.randomUUID();
    const headers = { 'x-request-id': id };
    const reading = chat.call('POST', '/api/chat-stream', { message: 'slow' }, headers);
    await chat.upstream.waitForRequest(chat.upstream.requests.length + 1);
    setTimeout(() => gate.open(), 400);
    await reading;
    const line = await until('the log line', () =>
      chat.server.lines.find(({ msg, request_id }) => msg === 'slow call' && request_id === id),
    );
    assert.equal(line.level, 'warn');
    assert.equal(line.part, 'first_token');
    assert.ok(Number(line.first_token_ms) >= 40 && Number(line.total_ms) >= Number(line.first_token_ms));
    for (const part of ['queue_ms', 'history_ms', 'connect_ms', 'generation_ms', 'commit_ms']) {
      assert.equal(typeof line[part], 'number', part);
    }
    const now = await scrape(chat);
    assert.ok(now.sum('chat_slow_calls_total', { part: 'first_token' }) >= 1);
    assert.ok(now.sum('chat_turn_part_duration_seconds_count', { part: 'commit' }) > 0);
  });

  it('says in Server-Timing of JSON replies where the time went', async () => {
    const { headers } = await chat.call('POST', '/api/chat', { message: 'timing', cache: false });
    const header = String(headers['server-timing']);
    const times = new Map(
      header.split(', ').map((part) => {
        const [name = '', ms] = part.split(';dur=');
        return [name, Number(ms)];
      }),
    );
    assert.deepEqual([...times.keys()], ['queue', 'history', 'connect', 'generation', 'commit', 'total']);
    const total = times.get('total') ?? 0;
    const sum = [...times].reduce((all, [name, ms]) => (name === 'total' ? all : all + ms), 0);
    assert.ok(Math.abs(total - sum) < 1, header);
    const cached = await chat.call('POST', '/api/chat', { message: 'count this' });
    assert.match(String(cached.headers['server-timing']), /^queue;.*, history;.*, commit;.*, total;/);
  });

  it('has no more than fifty names of models, whatever callers send', async () => {
    chat.upstream.respond((exchange) => {
      const message = { role: 'assistant', content: 'yes' };
      const choices = [{ index: 0, message, finish_reason: 'stop' }];
      return json({ model: exchange.request.body.model, choices })(exchange);
    });
    for (let n = 0; n < 60; n += 1) {
      await chat.call('POST', '/api/chat', { message: 'hi', model: `named "${n}"\\`, cache: false });
    }
    const now = await scrape(chat);
    for (const label of ['gen_ai_request_model', 'gen_ai_response_model']) {
      const names = new Set(now.series.flatMap(({ labels }) => labels[label] ?? []));
      assert.equal(names.size, 51, label);
      assert.ok(names.has('other') && names.has('named "3"\\'));
    }
    const unnamed = { gen_ai_request_model: 'other' };
    assert.ok(now.sum('gen_ai_client_operation_duration_seconds_count', unnamed) >= 10);
  });

  it('is valid for promtool, in the text format and in OpenMetrics', async () => {
    const plain = await chat.call('GET', '/metrics');
    assert.equal(plain.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
    assert.equal(plain.headers['cache-control'], 'no-store');
    checkWithPromtool(plain.text);
    const accept = 'application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1';
    const open = await chat.call('GET', '/metrics', undefined, { accept });
    assert.equal(open.headers['content-type'], 'application/openmetrics-text; version=1.0.0; charset=utf-8');
    assert.match(open.text, /# TYPE chat_checkpoints counter\nchat_checkpoints_total\{.*\n# EOF\n$/s);
    assert.ok(new Exposition(plain.text).find('process_cpu_seconds_total').length === 1);
  });

  it('gives every series the label of its worker', async () => {
    const { series } = await scrape(chat);
    assert.deepEqual([...new Set(series.map(({ labels }) => labels.worker))], ['0']);
  });

  it('answers HEAD without a body, and other methods with 405', async () => {
    const head = await chat.call('HEAD', '/metrics');
    assert.deepEqual([head.status, head.text], [200, '']);
    problemOf(await chat.call('POST', '/metrics'), 405, 'method_not_allowed');
  });

  it('serves scrapes at the same time, beside one that does not read', async () => {
    const { hostname, port } = new URL(chat.url);
    const silent = connect(Number(port), hostname);
    silent.pause();
    silent.write(`GET /metrics HTTP/1.1\r\nHost: ${hostname}\r\n\r\n`.repeat(20));
    const answers = await Promise.all(Array.from({ length: 5 }, () => chat.call('GET', '/metrics')));
    silent.destroy();
    assert.deepEqual(new Set(answers.map(({ status: code }) => code)), new Set([200]));
  });
});

describe('access to /metrics', () => {
  let chat: ProtectedServer;
  before(async () => {
    const [sqlite] = databases();
    assert(sqlite);
    chat = await startProtected(sqlite, { RATE_LIMIT_REQUESTS: '1000' });
  });
  after(() => chat.stop());

  it('needs the scope metrics, which admin includes, where keys are required', async () => {
    problemOf(await chat.call('GET', '/metrics'), 401, 'unauthorized');
    const user = await chat.person('alice', ['chat', 'read', 'export']);
    problemOf(await user.call('GET', '/metrics'), 403, 'forbidden');
    const prometheus = await chat.person('prometheus', ['metrics']);
    assert.equal((await prometheus.call('GET', '/metrics')).status, 200);
    problemOf(await prometheus.call('GET', '/api/conversations'), 403, 'forbidden');
    assert.equal((await chat.call('GET', '/metrics', undefined, bearer(chat.root.key))).status, 200);
  });

  it('counts refused requests by their limit', async (t) => {
    const [sqlite] = databases();
    assert(sqlite);
    const limited = await startProtected(sqlite, { RATE_LIMIT_STREAMS: '5', RATE_LIMIT_REQUESTS: '2' });
    t.after(() => limited.stop());
    const user = await limited.person('alice');
    for (let n = 0; n < 4; n += 1) await user.call('GET', '/api/conversations');
    const text = await limited.call('GET', '/metrics', undefined, bearer(limited.root.key));
    assert.equal(new Exposition(text.text).sum('chat_rate_limited_total', { policy: 'requests' }), 2);
  });

  it('needs a key on an address that others can reach, also with AUTH=off', async (t) => {
    const open = await startChat({ HOST: '0.0.0.0', AUTH: 'off' });
    t.after(() => open.stop());
    const url = open.url.replace('0.0.0.0', '127.0.0.1');
    assert.equal((await fetch(`${url}/metrics`)).status, 401);
    assert.equal((await fetch(`${url}/api/conversations`)).status, 200);
  });
});
