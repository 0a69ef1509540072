/** `npm test` reports every result, or fails. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { test } from 'node:test';

const PROJECT = resolve(import.meta.dirname, '../..');

async function run(source: string): Promise<{ readonly code: number; readonly stdout: string }> {
  // The runner takes files below test/.
  const folder = await mkdtemp(join(PROJECT, 'test', 'planted-'));
  const file = join(folder, 'planted.mjs');
  await writeFile(file, `import { describe, it } from 'node:test';\n${source}`);
  const { NODE_TEST_CONTEXT: _, ...inherited } = process.env;
  try {
    return await new Promise((done) => {
      execFile(
        process.execPath,
        [join(PROJECT, 'scripts', 'test.ts'), relative(PROJECT, file)],
        { cwd: PROJECT, env: { ...inherited, TEST_DATABASE_URL: '' }, maxBuffer: 64 * 1024 * 1024 },
        (error, stdout) => done({ code: Number(error?.code ?? 0), stdout }),
      );
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('the results of a process that has much to say are all counted', async () => {
  const { code, stdout } = await run(`for (let n = 0; n < 30; n++) describe(String(n), () => {
    for (let m = 0; m < 100; m++) it(\`\${m} \${'x'.repeat(400)}\`, () => {});
  });`);
  assert.deepEqual([code, /^ℹ pass (\d+)$/m.exec(stdout)?.[1]], [0, '3000']);
});

test('a process that exits before its tests have ended fails the run', async () => {
  const { code, stdout } = await run(`it('ends everything', () => process.exit(0)); it('later', () => {});`);
  assert.equal(code, 1);
  assert.match(stdout, /^✖ .*planted\.mjs.*\(exit code 1, of /m);
});
