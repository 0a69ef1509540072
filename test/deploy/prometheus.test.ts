/** A real Prometheus with the files of deploy/ scrapes two workers and answers every query of the dashboard. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import { fileUrl, read } from '../docs/documents.ts';
import { until } from '../support/chat-server.ts';
import { type ChildFolder, makeFolder } from '../support/child-server.ts';
import { findProgram, provide } from '../support/debian.ts';
import { plantMessage } from '../support/planted.ts';
import { freePort } from '../support/ports.ts';

const resultSchema = z.object({
  status: z.literal('success'),
  data: z.object({
    result: z.array(
      z.object({ metric: z.record(z.string(), z.string()), value: z.tuple([z.number(), z.string()]) }),
    ),
  }),
});
const rulesSchema = z.object({
  data: z.object({
    groups: z.array(
      z.object({ rules: z.array(z.object({ name: z.string(), health: z.string(), state: z.string() })) }),
    ),
  }),
});

/** Nothing of the kind happens in this test. */
const SILENT =
  /chat_upstream_errors|chat_circuit_state|chat_slow_calls|chat_rate_limited|chat_export_jobs|purged/;

interface Dashboard {
  readonly panels: readonly { readonly targets?: readonly { readonly expr: string }[] }[];
}

/** The queries of the dashboard, with values for the variables that Grafana puts in. */
function dashboardQueries(): string[] {
  const { panels }: Dashboard = JSON.parse(read('deploy/grafana/dashboard.json'));
  return panels.flatMap(({ targets = [] }) =>
    targets.map(({ expr }) => {
      const query = expr
        .replaceAll('$__rate_interval', '1m')
        .replaceAll('$job', 'chat-api')
        .replaceAll('$instance', '.*');
      assert(!query.includes('$'), expr);
      return query;
    }),
  );
}

const program = provide(() => findProgram('prometheus'), 'PROMETHEUS', 'prometheus');

describe('Prometheus', { skip: program === undefined && 'there is no Prometheus here' }, () => {
  let servers: ChildFolder;
  let folder: string;
  let prometheus: ChildProcess;
  let url: string;

  before(async () => {
    assert(program);
    servers = await makeFolder();
    const targets = [];
    for (const worker of [0, 1]) {
      const target = await servers
        .start({ LOG_FORMAT: 'json', NODE_APP_INSTANCE: String(worker) })
        .listening();
      targets.push(new URL(target).host);
    }
    folder = mkdtempSync(join(tmpdir(), 'chat-prometheus-'));
    const port = await freePort();
    url = `http://127.0.0.1:${port}`;
    const config = read('deploy/prometheus/prometheus.yml')
      .replaceAll('15s', '1s')
      // As behind a port that the workers share, one of them answers.
      .replace('server:5010', targets[0] ?? '')
      .replace('/etc/chat-api/metrics', join(folder, 'metrics.key'));
    writeFileSync(join(folder, 'metrics.key'), 'ck_not_needed_on_loopback');
    writeFileSync(join(folder, 'prometheus.yml'), config);
    copyFileSync(fileURLToPath(fileUrl('deploy/prometheus/alerts.yaml')), join(folder, 'alerts.yaml'));
    prometheus = spawn(
      program,
      [
        `--config.file=${join(folder, 'prometheus.yml')}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      { stdio: 'ignore' },
    );
    await until('Prometheus', () =>
      fetch(`${url}/-/ready`).then(
        ({ ok }) => ok,
        () => false,
      ),
    );
    for (let n = 0; n < 12; n += 1) {
      await ask(`http://${targets[n % 2]}/api/${n % 4 < 2 ? 'chat' : 'chat-stream'}`, `question ${n}`);
    }
  });
  after(async () => {
    if (prometheus.exitCode === null) {
      const exit = once(prometheus, 'exit');
      prometheus.kill('SIGTERM');
      await exit;
    }
    await servers.remove();
    rmSync(folder, { recursive: true, force: true });
  });

  async function ask(target: string, message: string): Promise<void> {
    const body = { message, cache: false };
    plantMessage(body);
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(target, { method: 'POST', headers, body: JSON.stringify(body) });
    await response.text();
    assert.equal(response.status, 200);
  }

  async function query(expression: string) {
    const response = await fetch(`${url}/api/v1/query?${new URLSearchParams({ query: expression })}`);
    return resultSchema.parse(await response.json()).data.result;
  }

  it('gets the series of both workers in one scrape', async () => {
    await until('both workers', async () => (await query('count(chat_build_info)'))[0]?.value[1] === '2');
    const workers = await query('sum by (worker) (chat_cache_requests_total)');
    assert.deepEqual(workers.map(({ metric }) => metric.worker).sort(), ['0', '1']);
    await until('all turns', async () => {
      const [total] = await query('sum(chat_cache_requests_total)');
      return total?.value[1] === '12';
    });
  });

  it('answers every query of the dashboard', async () => {
    const queries = dashboardQueries();
    assert(queries.length > 30);
    let empty: string[] = [];
    await until('two scrapes with the turns', async () => {
      const results = await Promise.all(queries.map(async (text) => [text, await query(text)] as const));
      empty = results
        .filter(([text, found]) => found.length === 0 && !SILENT.test(text))
        .map(([text]) => text);
      return empty.length === 0;
    }).catch(() => assert.deepEqual(empty, []));
  });

  it('evaluates every alert, and none fires', async () => {
    await until('the first evaluation', async () => (await rules()).every(({ health }) => health === 'ok'));
    const states = (await rules()).map(({ name, state }) => [name, state]);
    assert(states.length >= 10);
    assert.deepEqual(
      states.filter(([, state]) => state !== 'inactive'),
      [],
    );
  });

  async function rules() {
    const { data } = rulesSchema.parse(await (await fetch(`${url}/api/v1/rules`)).json());
    return data.groups.flatMap((group) => group.rules);
  }
});
