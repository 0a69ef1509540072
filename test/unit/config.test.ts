import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadConfig } from '../../src/config/config.ts';
import { ConfigError, loadEnvironment } from '../../src/config/environment.ts';
import { settingsSchema } from '../../src/config/settings.ts';
import { withoutSecrets } from '../../src/config/urls.ts';

function faults(environment: Record<string, string>): string[] {
  try {
    loadConfig(environment);
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    return error.message.split('\n');
  }
  assert.fail('these settings should have been refused');
}

describe('settings', () => {
  it('have defaults for everything', () => {
    const config = loadConfig({});
    assert.equal(config.host, '127.0.0.1');
    assert.equal(config.port, 5010);
    assert.equal(config.chat.historyLimit, 10);
    assert.equal(config.cache.maxBytes, 64 * 1024 * 1024);
    assert.equal(config.model.demo, true);
    assert.equal(config.database.autoMigrate, true);
    assert.equal(config.workers, 1);
    assert.equal(config.http.corsOrigins, 'loopback');
    assert.deepEqual(config.changed, {});
  });

  it('take the proxy variables only where NODE_USE_ENV_PROXY=1, and never for the demo model', () => {
    const proxy = { HTTPS_PROXY: 'http://proxy.example:8080', OPENAI_API_KEY: 'k' };
    assert.equal(loadConfig(proxy).model.proxyEnv, undefined);
    const { proxyEnv } = loadConfig({ ...proxy, NODE_USE_ENV_PROXY: '1' }).model;
    assert.equal(proxyEnv?.HTTPS_PROXY, proxy.HTTPS_PROXY);
    const [line] = faults({ NODE_USE_ENV_PROXY: '1', http_proxy: 'proxy.example:8080' });
    assert.equal(line, 'http_proxy must be an http:// or https:// URL, because NODE_USE_ENV_PROXY is 1');
    assert.equal(
      loadConfig({ ...proxy, OPENAI_API_KEY: '', NODE_USE_ENV_PROXY: '1' }).model.proxyEnv,
      undefined,
    );
  });

  it('report each error in one line with the variable, the allowed values and the value', () => {
    const lines = faults({ PORT: '70000', LOG_LEVEL: 'loud', CACHE_MAX_BYTES: 'lots', PURGE_CRON: 'never' });
    assert.deepEqual(lines.toSorted(), [
      'CACHE_MAX_BYTES must be a size in bytes, or with kb, mb or gb (1 kb = 1024), from 0 to 9007199254740991 bytes; it is "lots"',
      'LOG_LEVEL must be one of trace, debug, info, warn, error, fatal, silent; it is "loud"',
      'PORT must be a whole number from 0 to 65535; it is "70000"',
      'PURGE_CRON must be a cron pattern such as 17 * * * *; it is "never"',
    ]);
  });

  for (const [name, bad] of Object.entries({
    PORT: '-1',
    DB_POOL_MAX: '0',
    DATABASE_URL: 'jdbc:mysql://h/db',
    OPENAI_BASE_URL: 'ftp://x',
    OPENAI_HEADERS: '{"a":1}',
    OPENAI_TEMPERATURE: '3',
    OPENAI_COMPAT: 'no_stream_options,no_stream',
    HISTORY_LIMIT: '1.5',
    HISTORY_MAX_TOKENS: '0',
    BODY_LIMIT: '1tb',
    CORS_ORIGINS: 'https://a.example/path',
    TRUST_PROXY: 'true',
    CONVERSATION_TTL_HOURS: '-1',
    DB_AUTO_MIGRATE: 'maybe',
    AUTH: 'sometimes',
  })) {
    it(`reject ${name}=${bad}`, () => {
      const [line, ...more] = faults({ [name]: bad });
      assert.match(line ?? '', new RegExp(`^${name} must be `));
      assert.deepEqual(more, []);
    });
  }

  for (const bad of ['dead', '10.0.0.0/99', '::1/129', '1.2.3', '10.0.0.1,', 'LOOPBACK', '-1', '33']) {
    it(`refuse TRUST_PROXY=${bad}`, () => {
      assert.match(faults({ TRUST_PROXY: bad }).join(), /^TRUST_PROXY must be /);
    });
  }

  it('accept what Express accepts as TRUST_PROXY', () => {
    const TRUST_PROXY = 'loopback, 10.0.0.0/8,192.168.0.0/255.255.0.0,fd00::/8';
    const list = ['loopback', '10.0.0.0/8', '192.168.0.0/255.255.0.0', 'fd00::/8'];
    assert.deepEqual(loadConfig({ TRUST_PROXY }).http.trustProxy, list);
  });

  it('never print a secret, neither in an error nor as a changed setting', () => {
    const url = 'postgres://user:hunter2@host/db';
    assert.ok(!faults({ DATABASE_URL: url }).join().includes('hunter2'));
    const config = loadConfig({
      OPENAI_API_KEY: 'sk-secret',
      DATABASE_URL: 'mysql://u:hunter2@h/db',
      PORT: '1',
    });
    assert.deepEqual(config.changed, { OPENAI_API_KEY: '(set)', DATABASE_URL: '(set)', PORT: '1' });
  });

  it('treat an empty variable as unset', () => {
    assert.equal(loadConfig({ OPENAI_API_KEY: '', PORT: '' }).port, 5010);
    assert.equal(loadConfig({ OPENAI_API_KEY: '' }).model.demo, true);
  });

  it('require keys on a reachable host, unless AUTH=off', () => {
    assert.deepEqual(loadConfig({}).auth, { required: false, hosts: [] });
    assert.deepEqual(loadConfig({ HOST: '0.0.0.0' }).auth, { required: true, hosts: undefined });
    assert.deepEqual(loadConfig({ AUTH: 'required' }).auth, { required: true, hosts: undefined });
    assert.deepEqual(loadConfig({ ALLOWED_HOSTS: 'Chat.example.com, b' }).auth.hosts, [
      'chat.example.com',
      'b',
    ]);
    const config = loadConfig({ HOST: '0.0.0.0', AUTH: 'off' });
    assert.deepEqual(config.auth, { required: false, hosts: undefined });
    assert.match(config.warnings.join(), /anyone who can reach the port/);
    assert.deepEqual(config.http.corsOrigins, []);
  });

  it('limit callers with authentication, and otherwise only if set', () => {
    const none = {
      requestsPerMinute: 0,
      openStreams: 0,
      tokensPerDay: 0,
      exportsPerHour: 0,
      authFailuresPerMinute: 0,
    };
    const usual = {
      ...none,
      requestsPerMinute: 60,
      openStreams: 10,
      exportsPerHour: 20,
      authFailuresPerMinute: 10,
    };
    const limits = (environment: Record<string, string>) => loadConfig(environment).limits;
    assert.deepEqual(limits({}), { ...none, redisUrl: undefined });
    assert.deepEqual(limits({ AUTH: 'required' }), { ...usual, redisUrl: undefined });
    assert.deepEqual(limits({ AUTH: 'required', RATE_LIMIT_REQUESTS: '0' }).requestsPerMinute, 0);
    assert.deepEqual(limits({ RATE_LIMIT_TOKENS: '5', REDIS_URL: 'redis://x' }), {
      ...none,
      tokensPerDay: 5,
      redisUrl: 'redis://x',
    });
  });

  it('accept several signing secrets of sufficient length', () => {
    const [one, two] = ['a'.repeat(24), 'b'.repeat(24)];
    assert.deepEqual(loadConfig({ LINK_SECRET: `${one}, ${two}` }).linkSecrets, [one, two]);
    assert.match(faults({ LINK_SECRET: `${one},short` }).join(), /LINK_SECRET .* not shown here/);
  });

  it('reject several workers on SQLite', () => {
    assert.match(faults({ WEB_CONCURRENCY: '2' }).join(), /WEB_CONCURRENCY must be 1 on SQLite/);
    assert.equal(loadConfig({ WEB_CONCURRENCY: '2', DATABASE_URL: 'mysql://u@h/db' }).workers, 2);
  });

  it('do not migrate MySQL by default', () => {
    assert.equal(loadConfig({ DATABASE_URL: 'mysql://u@h/db' }).database.autoMigrate, false);
    assert.equal(
      loadConfig({ DATABASE_URL: 'mysql://u@h/db', DB_AUTO_MIGRATE: 'on' }).database.autoMigrate,
      true,
    );
  });

  it('read sizes with units', () => {
    assert.equal(loadConfig({ BODY_LIMIT: '2mb' }).http.bodyLimit, 2 * 1024 * 1024);
    assert.equal(loadConfig({ BODY_LIMIT: '64 KiB' }).http.bodyLimit, 64 * 1024);
    assert.equal(loadConfig({ BODY_LIMIT: '4096' }).http.bodyLimit, 4096);
  });

  it('are frozen', () => {
    const config = loadConfig({});
    assert.throws(() => Object.assign(config.chat, { historyLimit: 1 }), TypeError);
  });
});

/** `hunter2` is a secret. */
const REFUSED: readonly (readonly [name: string, text: string, line: RegExp])[] = [
  ['OPENAI_API_KEY', '“hunter2”', /printable ASCII/],
  ['OPENAI_API_KEY', '钥匙hunter2', /printable ASCII/],
  ['OPENAI_API_KEY', '\u200bhunter2', /printable ASCII/],
  ['OPENAI_API_KEY', 'hunt\ner2', /printable ASCII/],
  ['OPENAI_API_KEY', '"hunter2', /printable ASCII/],
  ['OPENAI_API_KEY', 'Bearer hunter2', /without blanks/],
  ['OPENAI_HEADERS', '{"x-team":"蓝hunter2"}', /Latin-1/],
  ['OPENAI_HEADERS', '{"x-team":"a\\nhunter2"}', /Latin-1/],
  ['OPENAI_HEADERS', '{"x team":"hunter2"}', /Latin-1/],
  ['OPENAI_HEADERS', '{"Content-Length":"5"}', /must not contain Content-Length/],
  ['OPENAI_BASE_URL', 'http://h/v1#x', /has a fragment.*; it is "http:\/\/h\/v1#\*\*\*"$/],
  ['OPENAI_BASE_URL', 'http://h/v 1', /must be an http/],
  ['OPENAI_BASE_URL', 'http://us%er:hunter2@h/v1', /it is "http:\/\/\*\*\*@h\/v1"$/],
  [
    'OPENAI_BASE_URL',
    'ftp://u:hunter2@h/v1?key=hunter2&b=1',
    /it is "ftp:\/\/\*\*\*@h\/v1\?key=\*\*\*&b=\*\*\*"$/,
  ],
  ['OPENAI_BASE_URL', 'u:hunter2@h/v1?key=hunter2#hunter2', /it is "\*\*\*@h\/v1\?key=\*\*\*#\*\*\*"$/],
  ['OPENAI_BASE_URL', 'http:/u:hunter2@/v1', /must be an http/],
  [
    'OPENAI_BASE_URL',
    'https://u:hunter2@h/openai/v1/chat/completions/',
    /must end before the endpoint: https:\/\/\*\*\*@h\/openai\/v1;/,
  ],
  ['OPENAI_BASE_URL', 'https://h/v1/completions?key=hunter2', /endpoint: https:\/\/h\/v1\?key=\*\*\*;/],
  ['CORS_ORIGINS', 'https://u:hunter2@h', /it is "https:\/\/\*\*\*@h"$/],
  ['DATABASE_URL', 'postgresql://u:hunter2@h/db', /PostgreSQL, which is not supported/],
  ['DATABASE_URL', 'postgres+asyncpg://u:hunter2@h/db', /PostgreSQL, which is not supported/],
  ['DATABASE_URL', 'mysql://u:hunter2#@h/db', /percent-encode it/],
  ['DATABASE_URL', 'mysql://u:hun/ter2@h/db', /percent-encode it/],
  ['DATABASE_URL', 'mysql://u:hun?ter2@h/db', /percent-encode it/],
  ['DATABASE_URL', 'mysql://u:1#2@h/db?ssl=true', /percent-encode it/],
  ['DATABASE_URL', 'mysql://u:hunter2@h/db#x', /fragment/],
  ['DATABASE_URL', 'sqlite::memory:', /must name a file/],
  ['DATABASE_URL', 'sqlite:file:x.sqlite?mode=ro', /must name a file/],
  ['DATABASE_URL', 'sqlite://', /must name a file/],
  ['SMTP_URL', 'smtp://me:12#hunter2@h:587', /percent-encode it/],
  ['SMTP_URL', 'smtp://h:99999', /must be smtp/],
  ['REDIS_URL', 'redis://:hun/ter2@h:6379', /percent-encode it/],
  ['REDIS_URL', 'redis://h:6379/cache', /must be redis/],
  ['MAIL_FROM', 'nobody', /must be an address/],
  ['MAIL_FROM', 'a@b, c@d', /must be an address/],
  ['HOST', 'http://localhost', /must be an address/],
  ['HOST', '127.0.0.1:80', /must be an address/],
  ['OPENAI_MODEL', 'a\nb', /must be text of one line/],
  ['OPENAI_MODLE', 'x', /^OPENAI_MODLE is not a setting: did you mean OPENAI_MODEL\?$/],
  ['OPENAI_BASEURL', 'x', /did you mean OPENAI_BASE_URL\?/],
];

describe('settings that can never work', () => {
  for (const [name, text, line] of REFUSED) {
    it(`are refused: ${name}=${JSON.stringify(text)}`, () => {
      const [error = '', ...more] = faults({ [name]: text });
      assert.match(error, line);
      assert.ok(error.startsWith(name));
      assert.doesNotMatch(error, /hunter2|12#/);
      assert.deepEqual(more, []);
    });
  }

  it('do not include blanks and quotes around a value', () => {
    const config = loadConfig({
      OPENAI_API_KEY: ' "sk-x"\r\n',
      OPENAI_BASE_URL: "' http://h/v1/ '",
      HOST: ' [::1] ',
      SYSTEM_PROMPT: ' "a" ',
      OPENAI_MODEL: '  ',
    });
    assert.equal(config.model.apiKey, 'sk-x');
    assert.equal(config.model.baseUrl, 'http://h/v1');
    assert.deepEqual([config.host, config.loopback], ['::1', true]);
    assert.equal(config.chat.systemPrompt, ' "a" ');
    assert.equal(config.chat.model, 'gpt-4o-mini');
  });

  it('name the demo model where there is no other', () => {
    assert.equal(loadConfig({}).chat.model, 'demo');
    assert.equal(loadConfig({ OPENAI_MODEL: 'mine' }).chat.model, 'mine');
  });

  it('do not include a URL with parameters, a path with @ or an encoded password', () => {
    for (const [text, used] of [
      ['HTTP://H', 'http://h'],
      ['https://h//', 'https://h'],
      ['https://h/v1/?api-version=2', 'https://h/v1?api-version=2'],
      ['https://h/@cf/v1', 'https://h/@cf/v1'],
      ['http://u:p%23@h:81/v1', 'http://u:p%23@h:81/v1'],
      ['http://u:p@h/v1/models', 'http://u:p@h/v1/models'],
    ] as const) {
      assert.equal(loadConfig({ OPENAI_BASE_URL: text }).model.baseUrl, used);
    }
    const url = 'mysql://u:p%2F@h/db?ssl={"ca":"a/@b"}';
    assert.deepEqual(loadConfig({ DATABASE_URL: url }).database.target, { kind: 'mysql', url });
  });

  it('hide the secrets of a URL that is used', () => {
    const config = loadConfig({ OPENAI_BASE_URL: 'http://me:hunter2@h/v1?key=hunter2' });
    assert.deepEqual(config.changed, { OPENAI_BASE_URL: 'http://***@h/v1?key=***' });
    assert.equal(withoutSecrets('https://h:81/v1'), 'https://h:81/v1');
    assert.equal(withoutSecrets('https://h'), 'https://h');
  });

  it('name ignored variables of the environment, but not those of Kubernetes', () => {
    const foreign = { REDIS_PORT: 'tcp://10.0.0.1', REDIS_SERVICE_HOST: '10.0.0.1', HOME: '/', Log_Dir: 'x' };
    assert.deepEqual(loadConfig(foreign).warnings, []);
    const { warnings } = loadConfig({ ...foreign, OPENAI_ORG_ID: 'o', DB_HOST: 'h' });
    assert.deepEqual(warnings, ['environment variables ignored, not settings: OPENAI_ORG_ID, DB_HOST']);
  });

  it('mean the path that a sqlite: URL shows', () => {
    for (const [url, file] of [
      ['sqlite:a/b.sqlite', resolve('a/b.sqlite')],
      ['sqlite://a/b.sqlite', resolve('a/b.sqlite')],
      ['sqlite://./a b.sqlite', resolve('a b.sqlite')],
      ['sqlite:///a/#b?.sqlite', resolve('/a/#b?.sqlite')],
      ['sqlite:/a/b.sqlite', resolve('/a/b.sqlite')],
    ] as const) {
      assert.deepEqual(loadConfig({ DATABASE_URL: url }).database.target, { kind: 'sqlite', file });
    }
  });
});

describe('the environment', () => {
  it('has precedence: process, .env.<NODE_ENV>, .env', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'chat-api-env-'));
    await writeFile(join(folder, '.env'), 'PORT=1\nHISTORY_LIMIT=1\nLOG_LEVEL=warn\n');
    await writeFile(join(folder, '.env.staging'), 'PORT=2\nHISTORY_LIMIT=2\nLOG_LEVEL=\n');
    const merged = loadEnvironment(folder, { NODE_ENV: 'staging', PORT: '3', HISTORY_LIMIT: '' });
    await rm(folder, { recursive: true });
    assert.deepEqual(
      { port: merged.PORT, history: merged.HISTORY_LIMIT, level: merged.LOG_LEVEL },
      { port: '3', history: '2', level: 'warn' },
    );
  });
});

describe('a .env file', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-api-env-'));
  });
  after(() => rm(folder, { recursive: true }));
  const readIn = (content: string | Buffer, environment = {}) => {
    writeFileSync(join(folder, '.env'), content);
    return loadEnvironment(folder, environment);
  };
  const refused = (content: string | Buffer): string[] => {
    try {
      readIn(content);
    } catch (error) {
      assert.ok(error instanceof ConfigError);
      return error.message.split('\n');
    }
    assert.fail('this file should have been refused');
  };

  it('is read in UTF-8 and UTF-16, with and without a byte order mark', () => {
    const text = '# 设置\r\nPORT=81\r\nSYSTEM_PROMPT="你好"\r\n';
    const utf16 = Buffer.from(`\uFEFF${text}`, 'utf16le');
    for (const content of [text, `\uFEFF${text}`, utf16, Buffer.from(utf16).swap16()]) {
      assert.deepEqual(readIn(content), { PORT: '81', SYSTEM_PROMPT: '你好' });
    }
  });

  it('is refused when it is in another encoding', () => {
    assert.deepEqual(refused(Buffer.from('PORT=81\n', 'utf16le')), [
      '.env contains NUL bytes: save it as UTF-8',
    ]);
    assert.deepEqual(refused('PORT=8\0' + '1'), ['.env contains NUL bytes: save it as UTF-8']);
    assert.deepEqual(refused(Buffer.from('# é\nMAIL_FROM=é@b\n', 'latin1')), [
      'MAIL_FROM in .env is not valid UTF-8: save the file as UTF-8',
    ]);
    assert.deepEqual(readIn(Buffer.from('# é\nPORT=1\n', 'latin1')), { PORT: '1' });
  });

  it('is refused when it cannot be read', async () => {
    const other = join(folder, 'other');
    await mkdir(join(other, '.env'), { recursive: true });
    assert.throws(() => loadEnvironment(other, {}), {
      name: 'ConfigError',
      message: '.env cannot be read: it is a folder',
    });
    assert.deepEqual(loadEnvironment(join(folder, 'none'), { NODE_ENV: 'production' }), {
      NODE_ENV: 'production',
    });
  });

  for (const [line, error] of [
    ['OPENAI_MODLE=x', 'OPENAI_MODLE in .env is not a setting: did you mean OPENAI_MODEL?'],
    ['OPENAI-API-KEY=x', 'OPENAI-API-KEY in .env is not a setting: did you mean OPENAI_API_KEY?'],
    ['openai_api_key=x', 'openai_api_key in .env is not a setting: did you mean OPENAI_API_KEY?'],
    ['PROT=1', 'PROT in .env is not a setting: did you mean PORT?'],
    ['DATABASEURL=x', 'DATABASEURL in .env is not a setting: did you mean DATABASE_URL?'],
    [
      'SMTP_HOST=x',
      'SMTP_HOST in .env is not a setting: those that begin with SMTP_ are SMTP_URL; .env.example lists all',
    ],
    [
      'OPENAI_API_KEY=a#b',
      'OPENAI_API_KEY in .env has a # outside quotes, which starts a comment: quote the value',
    ],
    [
      'LINK_SECRET=#abc',
      'LINK_SECRET in .env has a # outside quotes, which starts a comment: quote the value',
    ],
    [
      'export SMTP_URL = a#b # c',
      'SMTP_URL in .env has a # outside quotes, which starts a comment: quote the value',
    ],
    ['OPENAI_API_KEY sk-x', 'OPENAI_API_KEY in .env is not read: write OPENAI_API_KEY=value'],
    ['set OPENAI_API_KEY=sk-x', 'OPENAI_API_KEY in .env is not read: write OPENAI_API_KEY=value'],
    ['$env:OPENAI_API_KEY = "sk-x"', 'OPENAI_API_KEY in .env is not read: write OPENAI_API_KEY=value'],
  ] as const) {
    it(`is refused with ${line}`, () => assert.deepEqual(refused(`PORT=1\n${line}\n`), [error]));
  }

  it('may have comments, quotes, empty values and variables of other programs', () => {
    const lines = [
      '#OPENAI_MODLE=x',
      'PORT=1 # comment',
      'HOST= # comment',
      'AUTH=# comment',
      'OPENAI_API_KEY="a#b" # c',
      "LINK_SECRET='a#b'",
      'SYSTEM_PROMPT="one # two\nthree#four"',
      'COMPOSE_PROJECT_NAME=x',
      'TZ=UTC',
    ];
    assert.deepEqual(readIn(lines.join('\n')), {
      PORT: '1',
      OPENAI_API_KEY: 'a#b',
      LINK_SECRET: 'a#b',
      SYSTEM_PROMPT: 'one # two\nthree#four',
      COMPOSE_PROJECT_NAME: 'x',
      TZ: 'UTC',
    });
  });
});

describe('.env.example', () => {
  const listed = new Map(
    readFileSync(new URL('../../.env.example', import.meta.url), 'utf8')
      .split('\n')
      .flatMap((line) => {
        const match = /^#([A-Z\d_]+)=(.*)$/.exec(line);
        return match ? [[String(match[1]), String(match[2])] as const] : [];
      }),
  );

  it('lists exactly the settings', () => {
    assert.deepEqual([...listed.keys()].toSorted(), settingsSchema.keyof().options.toSorted());
  });

  it('has the true defaults', () => {
    assert.deepEqual(
      settingsSchema.parse(Object.fromEntries([...listed].filter(([, text]) => text !== ''))),
      settingsSchema.parse({}),
    );
  });
});
