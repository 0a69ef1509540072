/**
 * PM2 on Linux, macOS and Windows: npx pm2@7 start ecosystem.config.cjs
 *
 * Cluster mode is used even for one worker, because only then does `pm2 reload` start the new process before it stops
 * the old one. PM2's daemon forks the workers: start it with `npx pm2@7` in this folder, so that it runs on the project's
 * Node (see docs/deployment.md).
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
      // Set explicitly: PM2 chooses another runtime for .ts files.
      interpreter: 'node',
      // Same as `npm start`: without this limit V8 keeps up to 100 MB more of short-lived garbage.
      node_args: '--max-semi-space-size=16',
      exec_mode: 'cluster',
      instances: Number(setting('WEB_CONCURRENCY') ?? (mysql ? availableParallelism() : 1)),
      // The server sends 'ready' when it listens.
      wait_ready: true,
      listen_timeout: 30_000,
      // Longer than the server's grace period, so that it can finish and save running replies.
      kill_timeout: grace + 10_000,
      // Windows has no signals: PM2 sends the message 'shutdown' instead.
      shutdown_with_message: process.platform === 'win32',
      max_memory_restart: '1G',
      exp_backoff_restart_delay: 200,
      out_file: join('logs', 'chat-api.out.log'),
      error_file: join('logs', 'chat-api.err.log'),
      merge_logs: true,
    },
  ],
};
