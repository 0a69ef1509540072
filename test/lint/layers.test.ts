import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const CRUISER = join(PROJECT, 'node_modules', 'dependency-cruiser', 'bin', 'dependency-cruiser.mjs');

/** The rule check over one file that stands in `folder` and holds `code`. */
async function violations(folder: string, code: string): Promise<string> {
  const file = `${folder}/planted-${process.pid}.ts`;
  await writeFile(join(PROJECT, file), code);
  try {
    return await new Promise((resolve) => {
      execFile(process.execPath, [CRUISER, file], { cwd: PROJECT }, (_error, stdout) => resolve(stdout));
    });
  } finally {
    await rm(join(PROJECT, file));
  }
}

describe('the direction of the layers', () => {
  for (const [folder, code, rule] of [
    ['src/services', "import '../db/codec.ts';\n", 'services-know-the-domain'],
    ['src/services', "import 'express';\n", 'services-use-no-library'],
    ['src/services', "import type { Knex } from 'knex';\nexport type K = Knex;\n", 'services-use-no-library'],
    ['src/domain', "import '../services/purge.ts';\n", 'domain-is-pure'],
    ['src/domain', "import 'node:fs';\n", 'domain-is-pure'],
    ['src/http', "import '../db/codec.ts';\n", 'http-knows-the-services'],
    ['src/http', "import 'knex';\n", 'only-home-imports-knex'],
    ['src/db', "import 'openai';\n", 'only-home-imports-openai'],
    ['src/db', "import '../services/purge.ts';\n", 'db-knows-the-domain'],
    ['src/db', "import '../../test/support/fakes.ts';\n", 'no-test-in-src'],
  ] as const) {
    it(`is kept: in ${folder}, ${code.split('\n')[0]} is a fault`, async () => {
      assert.match(await violations(folder, code), new RegExp(rule));
    });
  }

  it('does not cry wolf: an import that is allowed passes', async () => {
    assert.match(
      await violations('src/services', "import '../domain/errors.ts';\n"),
      /no dependency violations/,
    );
  });
});
