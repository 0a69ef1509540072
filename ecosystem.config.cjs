/**
 * PM2, on Linux and Windows: npx pm2 start ecosystem.config.cjs
 *
 * Cluster mode also with one worker, because only there `pm2 reload` starts the new process before it stops the old
 * one. The workers are forks of PM2's own daemon, so start PM2 by `npx pm2` in this folder: that runs it on the
 * Node that the project brings (see docs/deployment.md).
 */
const { existsSync, readFileSync } = require('node:fs');
const { availableParallelism } = require('node:os');
const { join } = require('node:path');
const { parse } = require('dotenv');

function setting(name) {
  if (process.env[name]) return process.env[name];
  const files = process.env.NODE_ENV ? [`.env.${process.env.NODE_ENV}`, '.env'] : ['.env'];
  for (const file of files.map((one) => join(__dirname, one)).filter(existsSync)) {
    const value = parse(readFileSync(file))[name];
    if (value) return value;
  }
  return undefined;
}

const mysql = /^(mysql|mariadb):/.test(setting('DATABASE_URL') ?? '');
const grace = Number(setting('SHUTDOWN_GRACE_MS') ?? 25_000);

module.exports = {
  apps: [
    {
      name: 'chat-api',
      cwd: __dirname,
      script: join('src', 'main.ts'),
      // Said, or PM2 looks for another runtime for a .ts file.
      interpreter: 'node',
      // As `npm start` does: without a bound V8 keeps up to 100 MB more for what is garbage at once.
      node_args: '--max-semi-space-size=16',
      exec_mode: 'cluster',
      instances: Number(setting('WEB_CONCURRENCY') ?? (mysql ? availableParallelism() : 1)),
      // The server says 'ready' when its port is open and its database answered.
      wait_ready: true,
      listen_timeout: 30_000,
      // Longer than the server's own grace: it finishes and saves its replies by itself.
      kill_timeout: grace + 10_000,
      // Windows has no SIGINT to send; PM2 then sends the message 'shutdown'. The server understands both.
      shutdown_with_message: process.platform === 'win32',
      max_memory_restart: '1G',
      exp_backoff_restart_delay: 200,
      out_file: join('logs', 'chat-api.out.log'),
      error_file: join('logs', 'chat-api.err.log'),
      merge_logs: true,
    },
  ],
};
