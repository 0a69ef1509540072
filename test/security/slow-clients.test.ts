/** slowhttptest in three concurrent modes against a server of its own, beside a normal client. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { stripVTControlCharacters } from 'node:util';
import { makeFolder } from '../support/child-server.ts';
import { provideProgram } from '../support/debian.ts';

/** More than the threads, connections of the database and sockets of an agent that they could hold. */
const CONNECTIONS = 100;
/** Longer than the 15 s after which a head must be whole. */
const HEADS_SECONDS = '23';
/** The program takes half a core, however many connections it holds, and reports every 5 s. */
const SECONDS = '7';
const CLIENTS = 2;
/** Between two requests of a client: people are no load test. */
const PAUSE_MS = 150;

const MODES: Readonly<Record<string, (url: string) => string[]>> = {
  'slow headers': (url) => ['-H', '-l', HEADS_SECONDS, '-u', `${url}/`],
  'slow bodies': (url) => ['-B', '-l', SECONDS, '-f', 'application/json', '-u', `${url}/api/chat`],
  'slow readers': (url) => [
    '-X',
    '-l',
    SECONDS,
    '-n',
    '2',
    '-w',
    '1',
    '-y',
    '512',
    '-z',
    '5',
    '-u',
    `${url}/docs-assets/swagger-ui-bundle.js`,
  ],
};

interface Attack {
  readonly connected: number;
  /** In its own words. */
  readonly end: string;
  /** What the attacker's own probe saw. */
  readonly available: readonly string[];
}

async function attack(program: string, args: readonly string[]): Promise<Attack> {
  const shape = ['-c', String(CONNECTIONS), '-r', '50', '-i', '2', '-p', '10'];
  const child = spawn(program, [...shape, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const [coloured] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  const output = stripVTControlCharacters(coloured);
  const told = (name: string) =>
    [...output.matchAll(new RegExp(`^${name}: +(.+)`, 'gm'))].map(([, value]) => String(value));
  return {
    connected: Math.max(0, ...told('connected').map(Number)),
    end: told('Exit status')[0] ?? '',
    available: told('service available'),
  };
}

/** Milliseconds of each request of one after the other, until told to stop; any failure rejects. */
async function use(url: string, stop: AbortSignal): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const taken: number[] = [];
  for (let turn = 0; !stop.aborted; turn += 1) {
    const began = performance.now();
    const outgoing = request(`${url}/api/chat`, {
      method: 'POST',
      agent,
      headers: { 'content-type': 'application/json' },
    });
    outgoing.end(JSON.stringify({ message: `How are you, ${turn % 20}?` }));
    const [response] = await once(outgoing, 'response');
    const body = await text(response);
    assert.equal(response.statusCode, 200, body);
    taken.push(performance.now() - began);
    await pause(PAUSE_MS);
  }
  agent.destroy();
  return taken;
}

const program = provideProgram('slowhttptest', 'slowhttptest');

describe('slowhttptest', { skip: program === undefined && 'there is no slowhttptest here' }, () => {
  it(`in three modes with ${CONNECTIONS} connections each does not block other clients`, async (t) => {
    const folder = await makeFolder();
    t.after(() => folder.remove());
    const url = await folder.start().listening();
    const done = new AbortController();
    const clients = Promise.all(Array.from({ length: CLIENTS }, () => use(url, done.signal)));
    const attacks = Promise.all(
      Object.entries(MODES).map(
        async ([mode, args]) => [mode, await attack(program ?? '', args(url))] as const,
      ),
    ).finally(() => done.abort());
    const [all, told] = await Promise.all([clients, attacks]);
    const taken = all.flat().sort((a, b) => a - b);
    const slowest = taken.at(-1) ?? Number.POSITIVE_INFINITY;
    t.diagnostic(`${taken.length} requests, the slowest ${Math.round(slowest)} ms`);
    for (const [mode, { connected, available }] of told) {
      assert(connected >= CONNECTIONS * 0.9, `${mode}: only ${connected} connections were made`);
      assert(available.length > 0);
      assert.deepEqual(
        available.filter((said) => said !== 'YES'),
        [],
        mode,
      );
    }
    const heads = told.find(([mode]) => mode === 'slow headers');
    assert.equal(heads?.[1].end, 'No open connections left', 'heads that are not whole in 15 s are not cut');
    // Who has to wait for the slow ones waits for the 7 s of a body, or the 15 s of a head.
    assert(taken.length > 60, `only ${taken.length} requests were answered`);
    assert(slowest < 5000, `the slowest request took ${slowest} ms`);
  });
});
