/**
 * The layers: http, jobs → services → domain ← db, llm, cache, markdown, files, notify, limits,
 * filter, metrics. Only src/compose sees everything. See docs/architecture.md.
 */
const outside = (name, from, allowed) => ({
  name,
  severity: 'error',
  from: { path: `^src/${from}/` },
  to: { path: '^src/', pathNot: [`^src/${from}/`, '^src/util/', ...allowed] },
});

module.exports = {
  forbidden: [
    { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'no-unresolved',
      severity: 'error',
      from: {},
      // The server takes /assets/vendor from packages; see src/http/routes/documents.ts.
      to: { couldNotResolve: true, pathNot: '^\\.\\./vendor/' },
    },
    {
      name: 'no-test-in-src',
      severity: 'error',
      from: { path: '^(src|migrations)/' },
      to: { path: '^(test|bench|scripts)/' },
    },
    {
      name: 'domain-is-pure',
      severity: 'error',
      from: { path: '^src/domain/' },
      to: { pathNot: '^src/domain/' },
    },
    outside('util-is-pure', 'util', []),
    outside('services-know-the-domain', 'services', ['^src/domain/']),
    outside('db-knows-the-domain', 'db', ['^src/domain/']),
    outside('llm-knows-the-domain', 'llm', ['^src/domain/']),
    outside('cache-knows-the-domain', 'cache', ['^src/domain/']),
    outside('markdown-knows-the-domain', 'markdown', ['^src/domain/']),
    outside('files-know-the-domain', 'files', ['^src/domain/']),
    outside('notify-knows-the-domain', 'notify', ['^src/domain/']),
    outside('limits-know-the-domain', 'limits', ['^src/domain/']),
    outside('filter-knows-the-domain', 'filter', ['^src/domain/']),
    outside('metrics-know-the-domain', 'metrics', ['^src/domain/']),
    outside('jobs-know-the-services', 'jobs', ['^src/domain/', '^src/services/']),
    outside('http-knows-the-services', 'http', [
      '^src/domain/',
      '^src/services/',
      '^src/request-context\\.ts$',
    ]),
    {
      name: 'only-main-and-scripts-compose',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/(compose/|run\\.ts$)' },
      to: { path: '^src/compose/' },
    },
    {
      name: 'db-core-is-the-bottom-of-db',
      severity: 'error',
      from: { path: '^src/db/core/' },
      to: { path: '^src/db/', pathNot: '^src/db/core/' },
    },
    {
      name: 'markdown-is-self-contained',
      severity: 'error',
      from: { path: '^src/markdown/' },
      to: { path: '^src/domain/', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'services-use-no-library',
      severity: 'error',
      from: { path: '^src/services/' },
      to: { path: 'node_modules/', pathNot: 'node_modules/csv-stringify/' },
    },
    ...[
      ['openai', '^src/llm/'],
      ['knex', '^(src/db/|migrations/|knexfile\\.ts|scripts/)'],
      ['mysql2', '^src/db/'],
      ['better-sqlite3', '^src/db/'],
      ['nodemailer', '^src/notify/'],
      ['ipaddr.js', '^src/notify/'],
      ['standardwebhooks', '^src/notify/'],
      ['cli-progress', '^scripts/'],
      ['rate-limiter-flexible', '^src/limits/'],
      ['ioredis', '^src/limits/'],
      ['opencc-js', '^src/filter/'],
      ['express', '^src/http/'],
      ['lru-cache', '^src/(cache|llm)/'],
      ['csv-stringify', '^src/services/'],
      ['prom-client', '^src/metrics/'],
      ['@opentelemetry/api', '^src/metrics/'],
    ].map(([library, home]) => ({
      name: `only-home-imports-${library}`,
      severity: 'error',
      from: { path: '^(src|migrations|scripts|knexfile)', pathNot: home },
      to: { path: `node_modules/${library}/` },
    })),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^src/.*[.]d[.]ts$' },
    tsPreCompilationDeps: true,
    parser: 'swc',
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default', 'types'],
    },
  },
};
