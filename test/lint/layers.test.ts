import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const CRUISER = join(PROJECT, 'node_modules', 'dependency-cruiser', 'bin', 'dependency-cruiser.mjs');

const FORBIDDEN = [
  ['src/services', "import '../db/core/codec.ts';\n", 'services-know-the-domain'],
  ['src/services/chat', "import '../../http/route.ts';\n", 'services-know-the-domain'],
  ['src/services', "import 'express';\n", 'services-use-no-library'],
  ['src/services', "import type { Knex } from 'knex';\nexport type K = Knex;\n", 'services-use-no-library'],
  ['src/domain', "import '../services/health.ts';\n", 'domain-is-pure'],
  ['src/domain', "import 'node:fs';\n", 'domain-is-pure'],
  ['src/http', "import '../db/core/codec.ts';\n", 'http-knows-the-services'],
  ['src/util', "import '../domain/errors.ts';\n", 'util-is-pure'],
  ['src/http', "import 'knex';\n", 'only-home-imports-knex'],
  ['src/services', "import '../metrics/instruments.ts';\n", 'services-know-the-domain'],
  ['src/db', "import 'openai';\n", 'only-home-imports-openai'],
  ['src/db', "import '../services/health.ts';\n", 'db-knows-the-domain'],
  ['src/db', "import '../../test/support/fakes.ts';\n", 'no-test-in-src'],
  ['src/db/core', "import '../turns/turn-writer.ts';\n", 'db-core-is-the-bottom-of-db'],
  ['src/db/core', "await import('../journal/journal.ts');\n", 'db-core-is-the-bottom-of-db'],
  ['src/markdown/inline', "import '../../filter/index.ts';\n", 'markdown-knows-the-domain'],
  ['src/markdown', "import '../domain/errors.ts';\n", 'markdown-is-self-contained'],
  ['src/startup', "import '../compose/index.ts';\n", 'only-main-and-scripts-compose'],
] as const;

const ALLOWED = [
  ['src/services', "import '../domain/errors.ts';\n"],
  [
    'src/markdown',
    "import type { TextFormat } from '../domain/chat/text-format.ts';\nexport type T = TextFormat;\n",
  ],
] as const;

describe('dependency-cruiser', () => {
  const planted = [...FORBIDDEN, ...ALLOWED].map(([folder, code], index) => ({
    file: `${folder}/planted-${process.pid}-${index}.ts`,
    code,
  }));
  let output = '';

  before(async () => {
    for (const { file, code } of planted) await writeFile(join(PROJECT, file), code);
    const args = [CRUISER, ...planted.map(({ file }) => file)];
    output = await new Promise((resolve) => {
      execFile(process.execPath, args, { cwd: PROJECT }, (_error, stdout) => resolve(stdout));
    });
  });
  after(async () => {
    for (const { file } of planted) await rm(join(PROJECT, file), { force: true });
  });

  const reports = (index: number) => output.split('\n').filter((line) => line.includes(`-${index}.ts`));

  for (const [index, [folder, code, rule]] of FORBIDDEN.entries()) {
    it(`reports ${rule}: in ${folder}, ${code.split('\n')[0]}`, () => {
      assert(
        reports(index).some((line) => line.includes(`${rule}:`)),
        output,
      );
    });
  }

  it('allows a service to import the domain, and markdown its types', () => {
    assert.match(output, /dependency violations/);
    for (const index of ALLOWED.keys()) assert.deepEqual(reports(FORBIDDEN.length + index), []);
  });
});
