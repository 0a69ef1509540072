import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { CallReport, TurnReport } from '../../../src/domain/metrics.ts';
import { format } from '../../../src/metrics/exposition.ts';
import { type Readers, ServerMetrics } from '../../../src/metrics/server-metrics.ts';

const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 };
const call: CallReport = {
  requestModel: 'gpt',
  responseModel: 'gpt-2026',
  ms: 1500,
  firstMs: 500,
  chunks: 5,
  usage,
  failure: undefined,
};
const turn: TurnReport = {
  model: 'gpt',
  ms: 1600,
  firstMs: 600,
  generationMs: 1000,
  usage,
  parts: { queue: 1, generation: 1000 },
  failure: undefined,
};

const readers: Readers = {
  generations: () => 3,
  journal: () => ({ turns: 2, bytes: 100, oldest: 4000 }),
  now: () => 10_000,
  isDatabaseUp: () => true,
  pool: () => ({ used: 1, free: 2 }),
  circuits: () => [
    ['gpt', 'closed'],
    ['first unknown', 'half_open'],
    ['second unknown', 'open'],
  ],
  exportJobs: async () => ({ done: 4 }),
};

function createMetrics(newNames = false) {
  const places = new Map<string, Set<string>>();
  const metrics = new ServerMetrics({
    version: '1.2.3',
    serverAddress: 'api.example',
    newNames,
    admitModel: (kind, name) => {
      const names = places.get(kind) ?? new Set();
      places.set(kind, names);
      return names.has(name) || (names.size < 50 && names.add(name).size > 0);
    },
  });
  const text = async () => {
    const families = await Promise.all(
      metrics.instruments(readers).map((instrument) => instrument.read(true)),
    );
    return [...format([{ worker: '0', families }], 'prometheus')]
      .join('')
      .replaceAll('worker="0",', '')
      .replaceAll('{worker="0"}', '');
  };
  return { metrics, text };
}

const LABELS = 'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="gpt"';
const CLIENT = `${LABELS},gen_ai_response_model="gpt-2026",server_address="api.example"`;

describe('metrics of generative AI', () => {
  it('have the names, labels and units of the conventions', async () => {
    const { metrics, text } = createMetrics();
    metrics.callEnded(call);
    metrics.turnEnded(turn);
    const lines = (await text()).split('\n');
    for (const line of [
      `gen_ai_client_operation_duration_seconds_bucket{${CLIENT},le="1.28"} 0`,
      `gen_ai_client_operation_duration_seconds_bucket{${CLIENT},le="2.56"} 1`,
      `gen_ai_client_operation_duration_seconds_sum{${CLIENT}} 1.5`,
      `gen_ai_client_token_usage_sum{${CLIENT},gen_ai_token_type="input"} 10`,
      `gen_ai_client_token_usage_sum{${CLIENT},gen_ai_token_type="output"} 5`,
      `gen_ai_server_request_duration_seconds_sum{${LABELS}} 1.6`,
      `gen_ai_server_time_to_first_token_seconds_sum{${LABELS}} 0.6`,
      `gen_ai_server_time_per_output_token_seconds_sum{${LABELS}} 0.25`,
      `gen_ai_server_token_usage_sum{${LABELS},gen_ai_token_type="output"} 5`,
      'chat_turn_part_duration_seconds_sum{part="generation"} 1',
    ]) {
      assert(lines.includes(line), line);
    }
    assert(!lines.some((line) => line.includes('gen_ai_client_inference')));
  });

  it('add the newer names when they are asked for', async () => {
    const { metrics, text } = createMetrics(true);
    metrics.callEnded(call);
    const lines = (await text()).split('\n');
    for (const line of [
      `gen_ai_client_inference_duration_seconds_sum{${CLIENT}} 1.5`,
      `gen_ai_client_inference_time_to_first_chunk_seconds_sum{${CLIENT}} 0.5`,
      `gen_ai_client_inference_time_per_output_chunk_seconds_sum{${CLIENT}} 0.25`,
      `gen_ai_client_inference_usage_input_tokens_total{${CLIENT},gen_ai_token_modality="unknown"} 10`,
      `gen_ai_client_inference_operation_output_tokens_sum{${CLIENT}} 5`,
    ]) {
      assert(lines.includes(line), line);
    }
  });

  it('tell errors by their code', async () => {
    const { metrics, text } = createMetrics();
    metrics.callEnded({ ...call, responseModel: undefined, usage: null, failure: 'upstream_timeout' });
    assert.match(await text(), /duration_seconds_count\{.*error_type="upstream_timeout"\} 1/);
  });
});

describe('names of models as labels', () => {
  it('are fifty at most, and the rest is "other"', async () => {
    const { metrics, text } = createMetrics();
    for (let n = 0; n < 10_000; n += 1) {
      const name = `model-${n}`;
      metrics.callEnded({ ...call, requestModel: name, responseModel: name });
      metrics.turnEnded({ ...turn, model: name });
    }
    const names = new Set([...(await text()).matchAll(/_model="([^"]*)"/g)].map(([, name]) => name));
    assert.equal(names.size, 51);
    assert.match(await text(), /gen_ai_server_request_duration_seconds_count\{.*"other"\} 9950/);
  });

  it('take no place before the model has answered', async () => {
    const { metrics, text } = createMetrics();
    metrics.callEnded({ ...call, responseModel: undefined, failure: 'upstream_rejected' });
    assert.match(await text(), /operation_duration_seconds_count\{.*_model="other".*error_type/);
  });
});

describe('gauges', () => {
  it('show the state at the time of the scrape', async () => {
    const { metrics, text } = createMetrics();
    metrics.callEnded(call);
    metrics.streamOpened();
    metrics.streamOpened();
    metrics.streamClosed();
    const lines = (await text()).split('\n');
    for (const line of [
      'chat_open_streams 1',
      'chat_generations 3',
      'chat_journal_oldest_seconds 6',
      'chat_database_up 1',
      'chat_database_pool_connections{state="free"} 2',
      'chat_circuit_state{model="gpt"} 0',
      'chat_circuit_state{model="other"} 2',
      'chat_export_jobs{status="done"} 4',
      'chat_build_info{version="1.2.3"} 1',
    ]) {
      assert(lines.includes(line), line);
    }
  });

  it('count requests by the template of their path, and unknown methods together', async () => {
    const { metrics, text } = createMetrics();
    metrics.requestEnded('GET', '/api/conversations/:id', 200, 20);
    metrics.requestEnded('BREW', undefined, 405, 1);
    const all = await text();
    assert.match(
      all,
      /_count\{http_request_method="GET",http_route="\/api\/conversations\/:id",http_response_status_code="200"\} 1/,
    );
    assert.match(all, /_count\{http_request_method="_OTHER",http_response_status_code="405"\} 1/);
  });
});
