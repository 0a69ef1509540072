/** A real nginx with the site deploy/nginx.conf, on free ports of the loopback. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request as plainRequest } from 'node:http';
import { type RequestOptions, request } from 'node:https';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { provideProgram } from './debian.ts';
import { freePort } from './ports.ts';

const NAME = 'chat.example.com';
const START_TIMEOUT_MS = 30_000;

/** The programs nginx and openssl. Undefined, with a warning, if one is missing; see {@link provideProgram}. */
export function provideNginx(): Programs | undefined {
  const nginx = provideProgram('nginx', 'nginx-light');
  const openssl = provideProgram('openssl', 'openssl');
  return nginx && openssl ? { nginx, openssl } : undefined;
}

export interface Programs {
  readonly nginx: string;
  readonly openssl: string;
}

export interface NginxRequest extends Pick<RequestOptions, 'method' | 'localAddress' | 'servername'> {
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
}

export interface Nginx {
  /** Sends a request over TLS, to the host {@link NAME}, on its own connection. */
  send(path: string, options?: NginxRequest): Promise<IncomingMessage>;
  /** Sends a request to the port without TLS. */
  sendPlain(path: string, headers?: Record<string, string>): Promise<IncomingMessage>;
  /** The access log so far. */
  accessLog(): string;
  stop(): Promise<void>;
}

/**
 * @param site the block for `http { … }`, as an operator copies it
 * @param upstream where the server listens: `127.0.0.1:5010`
 * @param changes further replacements in the site; each text must be found
 */
export async function startNginx(
  programs: Programs,
  site: string,
  upstream: string,
  changes: Readonly<Record<string, string>> = {},
): Promise<Nginx> {
  const folder = mkdtempSync(join(tmpdir(), 'chat-nginx-'));
  const [tls, plain] = await Promise.all([freePort(), freePort()]);
  const [key, certificate, log] = ['key.pem', 'cert.pem', 'access.log'].map((file) => join(folder, file));
  assert(key && certificate && log);
  makeCertificate(programs.openssl, key, certificate);
  const changed = replaced(site, {
    'server 127.0.0.1:5010;': `server ${upstream};`,
    'listen 443 ': `listen 127.0.0.1:${tls} `,
    'listen 80': `listen 127.0.0.1:${plain}`,
    '/etc/ssl/chat.example.com.pem': certificate,
    '/etc/ssl/private/chat.example.com.key': key,
    '/var/log/nginx/chat.access.log': log,
    ...changes,
  });
  writeFileSync(join(folder, 'nginx.conf'), whole(changed, folder));
  const args = ['-c', join(folder, 'nginx.conf'), '-p', folder, '-e', join(folder, 'error.log')];
  execFileSync(programs.nginx, ['-t', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  const child = spawn(programs.nginx, args, { stdio: 'ignore' });
  await answering(child, tls, join(folder, 'error.log'));
  const ca = readFileSync(certificate);
  return {
    send: (path, options = {}) => send(path, { host: '127.0.0.1', port: tls, ca, ...options }),
    async sendPlain(path, headers = {}) {
      const outgoing = plainRequest({ host: '127.0.0.1', port: plain, path, agent: false, headers });
      outgoing.end();
      return answerTo(outgoing);
    },
    accessLog: () => readFileSync(log, 'utf8'),
    async stop() {
      if (child.exitCode === null && child.signalCode === null) {
        const gone = once(child, 'exit');
        child.kill('SIGTERM');
        await gone;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The whole configuration around the site; all paths are inside the folder. */
function whole(site: string, folder: string): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${join(folder, kind)};`,
  );
  return [
    ...(process.getuid?.() === 0 ? ['user root;'] : []),
    `daemon off; worker_processes 1; pid ${join(folder, 'pid')};`,
    'events { worker_connections 512; }',
    `http { access_log off; gzip on; ${temporary.join(' ')}\n${site}\n}\n`,
  ].join('\n');
}

function replaced(text: string, changes: Readonly<Record<string, string>>): string {
  return Object.entries(changes).reduce((result, [from, to]) => {
    assert(result.includes(from), `deploy/nginx.conf has no "${from}"`);
    return result.replaceAll(from, to);
  }, text);
}

function makeCertificate(openssl: string, key: string, certificate: string): void {
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  const name = ['-subj', `/CN=${NAME}`, '-addext', `subjectAltName=DNS:${NAME}`];
  const args = ['req', '-x509', ...kind, ...name, '-keyout', key, '-out', certificate];
  execFileSync(openssl, args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

async function send(
  path: string,
  { body, ...options }: NginxRequest & RequestOptions,
): Promise<IncomingMessage> {
  const headers = {
    host: NAME,
    ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    ...options.headers,
  };
  const outgoing = request({ servername: NAME, agent: false, ...options, path, headers });
  outgoing.end(typeof body === 'string' || body === undefined ? body : JSON.stringify(body));
  return answerTo(outgoing);
}

function answerTo(outgoing: ReturnType<typeof request>): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    outgoing.on('error', reject);
    outgoing.on('response', (response) => {
      // The reader gets the error.
      outgoing.off('error', reject).on('error', () => {});
      resolve(response);
    });
  });
}

async function answering(child: ChildProcess, port: number, errorLog: string): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (!(await connects(port))) {
    if (child.exitCode !== null || performance.now() > deadline)
      throw new Error(`nginx did not start:\n${readFileSync(errorLog, 'utf8')}`);
    await pause(20);
  }
}

function connects(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}
