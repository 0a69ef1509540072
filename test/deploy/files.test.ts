/** The files of deploy/, checked by the programs that read them. nginx.conf has tests in test/security/nginx.test.ts. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { anchorsOf, fileUrl, read } from '../docs/documents.ts';
import { provideProgram } from '../support/debian.ts';

function check(program: string, ...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  assert.equal(status, 0, stdout + stderr);
  return stdout + stderr;
}

const path = (name: string) => fileURLToPath(fileUrl(name));

describe('deployment files', () => {
  const promtool = provideProgram('promtool', 'prometheus');
  const logrotate = provideProgram('logrotate', 'logrotate');
  const systemd = provideProgram('systemd-analyze', 'systemd');

  it('have rules and a configuration that Prometheus accepts', { skip: !promtool }, () => {
    assert(promtool);
    assert.match(check(promtool, 'check', 'rules', path('deploy/prometheus/alerts.yaml')), /SUCCESS/);
  });

  it('have an explanation in both languages for each alert', () => {
    const alerts = [...read('deploy/prometheus/alerts.yaml').matchAll(/alert: (\w+)/g)].map(
      ([, name = '']) => name,
    );
    const runbooks = [...read('deploy/prometheus/alerts.yaml').matchAll(/runbook: (\S+)#(\S+)/g)];
    assert(alerts.length >= 10);
    assert.deepEqual(
      runbooks.map(([, , anchor]) => anchor),
      alerts.map((name) => name.toLowerCase()),
    );
    for (const page of ['docs/operations.md', 'docs/operations.zh-CN.md']) {
      const anchors = anchorsOf(read(page));
      for (const name of alerts) assert(anchors.includes(name.toLowerCase()), `${page}: ${name}`);
    }
  });

  it('have a unit that systemd accepts, with a low exposure', { skip: !systemd }, () => {
    assert(systemd);
    const unit = path('deploy/systemd/chat-api.service');
    const { stdout, stderr } = spawnSync(systemd, ['verify', unit], { encoding: 'utf8' });
    const problems = (stdout + stderr)
      .split('\n')
      .filter((line) => line.includes('chat-api.service') && !line.includes('is not executable'));
    assert.deepEqual(problems, []);
    const level = /exposure level for chat-api.service: ([\d.]+)/.exec(
      check(systemd, 'security', '--offline=true', '--no-pager', unit),
    );
    assert(Number(level?.[1]) < 3, level?.[0]);
  });

  it('have a logrotate file that logrotate accepts', { skip: !logrotate }, () => {
    assert(logrotate);
    const folder = mkdtempSync(join(tmpdir(), 'chat-logrotate-'));
    try {
      // logrotate ignores files that others can write to.
      const file = join(folder, 'chat-api');
      // The user exists on the machine that it is installed on.
      writeFileSync(
        file,
        read('deploy/logrotate.conf').replace('create 0640 chat-api chat-api', 'create 0640'),
      );
      const output = check(logrotate, '--debug', '--state', join(folder, 'state'), file);
      assert.doesNotMatch(output, /error/i);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
