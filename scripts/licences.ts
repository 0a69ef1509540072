/** `npm run licences`: writes docs/licences.md, the table of direct dependencies with their licences and purposes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { readArguments } from '../src/util/command-line.ts';

const ROOT = new URL('../', import.meta.url);

const manifest = z.object({
  dependencies: z.record(z.string(), z.string()),
  devDependencies: z.record(z.string(), z.string()),
});
const installed = z.object({ license: z.string() });

/** Why each package is needed. */
const RUNTIME: Readonly<Record<string, string>> = {
  '@opentelemetry/api': 'spans, where an SDK is registered',
  '@streamparser/json': 'reads JSON in `npm run export:verify` and imports',
  'better-sqlite3': 'SQLite; brings its binary, so nothing is compiled',
  'cli-progress': 'the bar that `npm run export` shows',
  cors: 'CORS headers',
  'csv-parse': 'reads CSV in `npm run export:verify`',
  'csv-stringify': 'CSV of the exports',
  'decode-named-character-reference': 'entities such as `&nbsp;` in the text form',
  dotenv: '`.env`',
  'eventsource-parser': 'server-sent events from model servers',
  express: 'routing',
  helmet: 'security headers',
  ioredis: 'Redis, where `REDIS_URL` is set',
  'ipaddr.js': 'whether the address of a webhook is a public one',
  knex: 'SQL for both databases, pool, migrations',
  'lru-cache': 'the response cache, bounded in bytes',
  marked: 'Markdown on the chat page',
  'marked-cjk-friendly': 'emphasis next to Chinese, Japanese and Korean text on the chat page',
  'micromark-extension-cjk-friendly-util': 'emphasis next to Chinese, Japanese and Korean punctuation',
  'micromark-util-html-tag-name': 'the tags that begin a block of HTML in Markdown',
  mysql2: 'MySQL, MariaDB and what speaks like them',
  node: 'the runtime',
  'node-cron': 'the schedule of the purge',
  nodemailer: 'mails about finished exports',
  openai: 'requests to model servers',
  'opencc-js': 'traditional and simplified characters count as the same in the content filter',
  pino: 'logs',
  'pino-pretty': 'logs for people at a terminal',
  'prom-client': 'metrics of the process and the event loop',
  'rate-limiter-flexible': 'limits that processes share in Redis',
  'proxy-addr': 'which proxies are trusted: the parser of Express',
  'raw-body': 'reads request bodies up to a limit',
  standardwebhooks: 'signs webhooks',
  'swagger-ui-dist': '`/docs`, served from here',
  uuid: 'ids (UUIDv7)',
  zod: 'settings and requests, checked',
  'zod-openapi': 'the OpenAPI document, from the same schemas',
};

const DEVELOPMENT: Readonly<Record<string, string>> = {
  '@ai-sdk/openai-compatible': 'a client of OpenAI’s API, in tests and examples',
  '@biomejs/biome': 'format and lint',
  '@langchain/core': 'messages and tools of @langchain/openai',
  '@langchain/openai': 'a client of OpenAI’s API, in tests and examples',
  '@microsoft/fetch-event-source': 'a reader of streams, in tests',
  '@opentelemetry/sdk-trace-node': 'an SDK, in tests',
  '@swc/core': 'reads TypeScript for dependency-cruiser',
  '@types/better-sqlite3': 'types',
  '@types/cli-progress': 'types',
  '@types/cors': 'types',
  '@types/express': 'types',
  '@types/mdast': 'types',
  '@types/node': 'types',
  '@types/nodemailer': 'types',
  '@types/papaparse': 'types',
  ai: 'a client of OpenAI’s API, in tests and examples',
  'dependency-cruiser': 'which layer may import which',
  eventsource: 'a reader of streams, in tests',
  'fast-check': 'random tests',
  knip: 'finds unused code and dependencies',
  'mdast-util-from-markdown': 'the Markdown parser that the text form is tested against',
  'mdast-util-gfm': 'its tables, strikethrough and links',
  micromark: 'what the extensions below extend',
  'micromark-extension-cjk-friendly': 'the same rules as at runtime, in that parser',
  'micromark-extension-cjk-friendly-gfm-strikethrough': 'the same for strikethrough',
  'micromark-extension-gfm': 'tables, strikethrough and links, in that parser',
  papaparse: 'a reader of the CSV exports, in tests',
  'playwright-core': 'drives Chromium in tests',
  pm2: 'starts several processes; a program of its own, no part of the server',
  'smtp-server': 'receives mails in tests',
  typescript: 'checks types',
};

export function readJson(path: string): unknown {
  return JSON.parse(readFileSync(new URL(path, ROOT), 'utf8'));
}

/**
 * The text of docs/licences.md, from package.json and node_modules.
 * @throws Error for a dependency without a reason above, and for a reason without a dependency
 */
export function licencesDocument(): string {
  const { dependencies, devDependencies } = manifest.parse(readJson('package.json'));
  return `# Licences

What this project depends on directly; \`npm run licences\` writes this page from package.json and what is installed. \`test/supply\` holds it to that; it also knows which licences may be among all packages, these and those behind them, and which may run a script when they are installed.

## At runtime

${table(dependencies, RUNTIME)}

## For development

None of these is needed to run the server, except pm2 where several processes are wanted.

${table(devDependencies, DEVELOPMENT)}
`;
}

function table(ranges: Readonly<Record<string, string>>, reasons: Readonly<Record<string, string>>): string {
  const idle = Object.keys(reasons).filter((name) => ranges[name] === undefined);
  const unexplained = Object.keys(ranges).filter((name) => reasons[name] === undefined);
  if (idle.length + unexplained.length > 0) {
    throw new Error(`scripts/licences.ts: no reason for ${unexplained}; reasons for nothing: ${idle}`);
  }
  const rows = Object.keys(ranges).map((name) => {
    const { license } = installed.parse(readJson(`node_modules/${name}/package.json`));
    return `| ${name} | ${ranges[name]} | ${license} | ${reasons[name]} |`;
  });
  return ['| Package | Version | Licence | For |', '|---|---|---|---|', ...rows].join('\n');
}

if (import.meta.main) {
  readArguments(
    'usage: npm run licences\nWrites docs/licences.md from package.json and what is installed.',
    {},
  );
  writeFileSync(new URL('docs/licences.md', ROOT), licencesDocument());
}
