import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { KnexApiKeys } from '../../src/db/access/api-keys.ts';
import { hashOf, looksLikeKey } from '../../src/services/access/api-key-format.ts';
import { eachDatabase } from '../support/databases.ts';
import { type Ended, scriptFolder } from '../support/script.ts';

const said = ({ code, stdout, stderr }: Ended) => ({ code, stdout: stdout.toString(), stderr });

/** The value of a line `name  value`. */
function line(stdout: string, name: string): string {
  return new RegExp(`^${name} +(.*)$`, 'm').exec(stdout)?.[1] ?? '';
}

const CREATE = ['create', '--owner', 'team blue', '--scopes', 'read,chat'];

eachDatabase(
  (name, open, { target }) => {
    describe('npm run keys', () => {
      const url = target.kind === 'mysql' ? target.url : `sqlite:${target.file}`;
      const folder = scriptFolder(url, { DB_AUTO_MIGRATE: 'on' });
      after(() => folder.remove());
      const run = async (...args: string[]) => said(await folder.run('keys', ...args));

      it('says which command to run if the schema is missing and not migrated automatically', async () => {
        const off = scriptFolder(url, { DB_AUTO_MIGRATE: 'off' });
        const { code, stdout, stderr } = said(await off.run('keys', ...CREATE));
        off.remove();
        assert.equal(code, 1);
        assert.equal(stdout, '');
        assert.match(
          stderr,
          /^The schema of the database .* Run "npm run migrate", or set DB_AUTO_MIGRATE=on\.\n$/,
        );
      });

      it(`creates a key before the first start of a server on ${name}, and shows it once`, async () => {
        const limits = ['--requests', '600', '--streams', '0'];
        const args = [...CREATE, '--expires', '2999-01-01T08:00:00+08:00', ...limits];
        // The process is the same for each.
        const made =
          target.kind === 'sqlite' ? said(await folder.start('keys', args).ended) : await run(...args);
        assert.deepEqual([made.code, made.stderr], [0, '']);
        const key = line(made.stdout, 'key');
        assert.ok(looksLikeKey(key));
        assert.equal(line(made.stdout, 'expires'), '2999-01-01T00:00:00.000Z');
        const stored = await new KnexApiKeys(open().knex).findByHash(hashOf(key));
        assert.equal(stored?.id, line(made.stdout, 'id'));
        assert.equal(stored?.owner, 'team blue');
        assert.deepEqual(stored?.scopes, ['chat', 'read']);
        assert.deepEqual(stored?.limits, { requestsPerMinute: 600, openStreams: 0 });
        assert.equal(line(made.stdout, 'streams'), 'unlimited');
        const listed = (await run('list')).stdout;
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
        const first = (await run(...CREATE, '--streams', '7')).stdout;
        assert.equal(line(first, 'expires'), 'never');
        assert.equal(line(first, 'requests'), 'default');
        const rotated = await run('rotate', line(first, 'id').toUpperCase());
        const next = line(rotated.stdout, 'id');
        assert.ok(looksLikeKey(line(rotated.stdout, 'key')));
        assert.notEqual(line(rotated.stdout, 'key'), line(first, 'key'));
        assert.equal(line(rotated.stdout, 'owner'), 'team blue');
        assert.equal(line(rotated.stdout, 'streams'), '7');
        assert.match((await run('revoke', next)).stdout, /^revoked {2}ck_\w{8}… of team blue, at \d{4}-/);
        const states = (await run('list')).stdout;
        for (const id of [line(first, 'id'), next]) {
          assert.match(states, new RegExp(`^${id} .* revoked$`, 'm'));
        }
        for (const id of [next, "' OR 1=1 --"]) {
          const again = await run('rotate', id);
          assert.equal(again.code, 1);
          assert.match(again.stderr, /^no active key has the id .*npm run keys -- list\n$/);
        }
        assert.match(
          (await run('revoke', 'nothing')).stderr,
          /^no key has the id "nothing"; list the keys with: npm run keys -- list\n$/,
        );
      });
    });
  },
  { migrated: false },
);

describe('npm run keys with invalid input', () => {
  const folder = scriptFolder();
  after(() => folder.remove());
  const refused = async (...args: string[]) => {
    const { code, stdout, stderr } = said(await folder.run('keys', ...args));
    assert.equal(code, stderr.includes('usage:') ? 2 : 1);
    assert.equal(stdout, '');
    assert.doesNotMatch(stderr, /\n\s+at /);
    return stderr;
  };

  it('prints its usage', async () => {
    for (const args of [
      [],
      ['lost'],
      ['revoke'],
      ['list', 'all'],
      ['revoke', 'a', 'b'],
      ['list', '--owner', 'a'],
    ]) {
      assert.match(
        await refused(...args),
        /^A command with its own arguments is needed\nusage: npm run keys -- COMMAND\n/,
      );
    }
    assert.match(await refused('create', '--owner', 'a'), /^create needs --owner and --scopes\nusage:/);
    assert.match(await refused('create', '--name', 'a'), /^Unknown option '--name'\nusage:/);
  });

  it('names unknown scopes', async () => {
    const text = await refused('create', '--owner', 'a', '--scopes', 'chat,root,,Admin');
    assert.equal(
      text,
      '--scopes: unknown "root", "", "Admin"; known scopes are chat, read, export, metrics, admin\n',
    );
  });

  it('requires a future time with a zone', async () => {
    for (const time of [
      'tomorrow',
      '2999-01-01',
      '2999-01-01T00:00:00',
      '2999-02-30T00:00:00Z',
      '2999-01-01T25:00Z',
    ]) {
      const text = await refused(...CREATE, '--expires', time);
      assert.match(text, /^--expires must be a time with a zone, such as 2027-01-01T00:00:00Z, not /);
    }
    const past = await refused(...CREATE, '--expires', '2020-01-01T00:00:00Z');
    assert.equal(past, '--expires must be a time in the future\n');
  });

  it('requires limits that are whole numbers', async () => {
    const text = await refused(...CREATE, '--requests', '1e3', '--streams', '');
    assert.equal(
      text,
      '--requests must be a whole number from 0 to 1000000000\n--streams must be a whole number from 0 to 1000000\n',
    );
  });

  it('requires a printable owner', async () => {
    const text = await refused('create', '--owner', 'a\tb', '--scopes', 'chat');
    assert.equal(text, '--owner must be 1 to 255 visible characters without surrounding spaces\n');
  });

  it('reports an unavailable database in one line, without its password', async () => {
    const unavailable = scriptFolder('mysql://root:hunter2@127.0.0.1:1/chat');
    const { code, stderr } = await unavailable.run('keys', ...CREATE);
    unavailable.remove();
    assert.equal(code, 1);
    assert.equal(stderr, 'MySQL 127.0.0.1:1/chat: The database does not answer\n');
  });
});
