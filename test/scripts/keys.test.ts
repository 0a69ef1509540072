import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { KnexApiKeys } from '../../src/db/access/api-keys.ts';
import { hashOf, looksLikeKey } from '../../src/services/access/api-key-format.ts';
import { eachDatabase } from '../support/databases.ts';

const SCRIPT = fileURLToPath(new URL('../../scripts/keys.ts', import.meta.url));

function runIn(folder: string, env: NodeJS.ProcessEnv, args: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [SCRIPT, ...args], {
    cwd: folder,
    env: { ...process.env, NODE_ENV: '', DATA_DIR: folder, ...env },
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

/** The value of a line `name  value`. */
function line(stdout: string, name: string): string {
  return new RegExp(`^${name} +(.*)$`, 'm').exec(stdout)?.[1] ?? '';
}

const CREATE = ['create', '--owner', 'team blue', '--scopes', 'read,chat'];

eachDatabase(
  (name, open, { target }) => {
    describe('npm run keys', () => {
      let folder: string;
      const url = target.kind === 'mysql' ? target.url : `sqlite:${target.file}`;
      const run = (...args: string[]) => runIn(folder, { DATABASE_URL: url, DB_AUTO_MIGRATE: 'on' }, args);
      before(async () => {
        folder = await mkdtemp(join(tmpdir(), 'chat-api-keys-'));
      });
      after(() => rm(folder, { recursive: true, force: true }));

      it('says which command to run if the schema is missing and not migrated automatically', () => {
        const env = { DATABASE_URL: url, DB_AUTO_MIGRATE: 'off' };
        const { status, stdout, stderr } = runIn(folder, env, CREATE);
        assert.equal(status, 1);
        assert.equal(stdout, '');
        assert.match(
          stderr,
          /^The schema of the database .* Run "npm run migrate", or set DB_AUTO_MIGRATE=on\.\n$/,
        );
      });

      it(`creates a key before the first start of a server on ${name}, and shows it once`, async () => {
        const limits = ['--requests', '600', '--streams', '0'];
        const made = run(...CREATE, '--expires', '2999-01-01T08:00:00+08:00', ...limits);
        assert.equal(made.stderr, '');
        assert.equal(made.status, 0);
        const key = line(made.stdout, 'key');
        assert.ok(looksLikeKey(key));
        assert.equal(line(made.stdout, 'expires'), '2999-01-01T00:00:00.000Z');
        const stored = await new KnexApiKeys(open().knex).findByHash(hashOf(key));
        assert.equal(stored?.id, line(made.stdout, 'id'));
        assert.equal(stored?.owner, 'team blue');
        assert.deepEqual(stored?.scopes, ['chat', 'read']);
        assert.deepEqual(stored?.limits, { requestsPerMinute: 600, openStreams: 0 });
        assert.equal(line(made.stdout, 'streams'), 'unlimited');
        const listed = run('list').stdout;
        assert.match(
          listed,
          new RegExp(
            `^${stored?.id}  ${stored?.prefix}  team blue  chat,read  600 +unlimited .* never +active$`,
            'm',
          ),
        );
        assert.equal(listed.includes(key.slice(12)), false);
      });

      it('revokes and rotates a key, and shows the new one', async () => {
        const first = run(...CREATE, '--streams', '7').stdout;
        assert.equal(line(first, 'expires'), 'never');
        assert.equal(line(first, 'requests'), 'default');
        const rotated = run('rotate', line(first, 'id').toUpperCase());
        const next = line(rotated.stdout, 'id');
        assert.ok(looksLikeKey(line(rotated.stdout, 'key')));
        assert.notEqual(line(rotated.stdout, 'key'), line(first, 'key'));
        assert.equal(line(rotated.stdout, 'owner'), 'team blue');
        assert.equal(line(rotated.stdout, 'streams'), '7');
        assert.match(run('revoke', next).stdout, /^revoked {2}ck_\w{8}… of team blue, at \d{4}-/);
        const states = run('list').stdout;
        for (const id of [line(first, 'id'), next]) {
          assert.match(states, new RegExp(`^${id} .* revoked$`, 'm'));
        }
        for (const id of [next, "' OR 1=1 --"]) {
          const again = run('rotate', id);
          assert.equal(again.status, 1);
          assert.match(again.stderr, /^no active key has the id .*npm run keys -- list\n$/);
        }
        assert.match(
          run('revoke', 'nothing').stderr,
          /^no key has the id "nothing"; list the keys with: npm run keys -- list\n$/,
        );
      });
    });
  },
  { migrated: false },
);

describe('npm run keys with invalid input', () => {
  let folder: string;
  const refused = (...args: string[]) => {
    const { status, stdout, stderr } = runIn(folder, { DATABASE_URL: '' }, args);
    assert.equal(status, stderr.includes('usage:') ? 2 : 1);
    assert.equal(stdout, '');
    assert.doesNotMatch(stderr, /\n\s+at /);
    return stderr;
  };
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-api-keys-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  it('prints its usage', () => {
    for (const args of [
      [],
      ['lost'],
      ['revoke'],
      ['list', 'all'],
      ['revoke', 'a', 'b'],
      ['list', '--owner', 'a'],
    ]) {
      assert.match(
        refused(...args),
        /^A command with its own arguments is needed\nusage: npm run keys -- COMMAND\n/,
      );
    }
    assert.match(refused('create', '--owner', 'a'), /^create needs --owner and --scopes\nusage:/);
    assert.match(refused('create', '--name', 'a'), /^Unknown option '--name'\nusage:/);
  });

  it('names unknown scopes', () => {
    const said = refused('create', '--owner', 'a', '--scopes', 'chat,root,,Admin');
    assert.equal(
      said,
      '--scopes: unknown "root", "", "Admin"; known scopes are chat, read, export, metrics, admin\n',
    );
  });

  it('requires a future time with a zone', () => {
    for (const time of [
      'tomorrow',
      '2999-01-01',
      '2999-01-01T00:00:00',
      '2999-02-30T00:00:00Z',
      '2999-01-01T25:00Z',
    ]) {
      const said = refused(...CREATE, '--expires', time);
      assert.match(said, /^--expires must be a time with a zone, such as 2027-01-01T00:00:00Z, not /);
    }
    const past = refused(...CREATE, '--expires', '2020-01-01T00:00:00Z');
    assert.equal(past, '--expires must be a time in the future\n');
  });

  it('requires limits that are whole numbers', () => {
    const said = refused(...CREATE, '--requests', '1e3', '--streams', '');
    assert.equal(
      said,
      '--requests must be a whole number from 0 to 1000000000\n--streams must be a whole number from 0 to 1000000\n',
    );
  });

  it('requires a printable owner', () => {
    const said = refused('create', '--owner', 'a\tb', '--scopes', 'chat');
    assert.equal(said, '--owner must be 1 to 255 visible characters without surrounding spaces\n');
  });

  it('reports an unavailable database in one line, without its password', () => {
    const DATABASE_URL = 'mysql://root:hunter2@127.0.0.1:1/chat';
    const { status, stderr } = runIn(folder, { DATABASE_URL }, CREATE);
    assert.equal(status, 1);
    assert.equal(stderr, 'MySQL 127.0.0.1:1/chat: The database does not answer\n');
  });
});
