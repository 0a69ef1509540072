import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ConfigError, loadConfig, loadEnvironment } from '../../src/config/config.ts';
import { settingsSchema } from '../../src/config/settings.ts';

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
    DATABASE_URL: 'postgres://u:p@h/db',
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

describe('.env.example', () => {
  const listed = new Map(
    readFileSync(new URL('../../.env.example', import.meta.url), 'utf8')
      .split('\n')
      .flatMap((line) => {
        const match = /^#([A-Z_]+)=(.*)$/.exec(line);
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
