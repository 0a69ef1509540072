import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { licencesDocument, readJson } from '../../scripts/licences.ts';

const lock = z.object({
  packages: z.record(
    z.string(),
    z.looseObject({
      version: z.string(),
      license: z.unknown().optional(),
      resolved: z.string().optional(),
      integrity: z.string().optional(),
      dev: z.boolean().default(false),
      hasInstallScript: z.boolean().default(false),
    }),
  ),
});

/** Which may run a script of its own when it is installed, and why that is looked at and known. */
const INSTALL_SCRIPTS: Readonly<Record<string, { readonly runs: boolean; readonly why: string }>> = {
  node: { runs: true, why: 'fetches the Node that everything here runs on, from the registry' },
  '@scarf/scarf': { runs: false, why: 'would report installations of swagger-ui-dist; nothing needs it' },
  '@swc/core': { runs: false, why: 'would look for its binary, which comes as an optional dependency' },
};

/** May be used in closed products, without telling more than who wrote it. */
const ALLOWED: ReadonlySet<string> = new Set([
  '0BSD',
  'Apache-2.0',
  'BlueOak-1.0.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'ISC',
  'MIT',
  'MIT-0',
  'Python-2.0',
  'Unlicense',
]);

/** What is none of those by its name; `dev`: only where no user of the server gets it. */
const EXCEPTIONS: Readonly<Record<string, { license: unknown; dev: true; why: string }>> = {
  pm2: {
    license: 'AGPL-3.0',
    dev: true,
    why: 'a program beside the server, changed in nothing, linked to nothing',
  },
  '@pm2/js-api': { license: 'Apache-2', dev: true, why: 'Apache-2.0, as its LICENSE says' },
  'cli-tableau': { license: undefined, dev: true, why: 'MIT, as its LICENSE says' },
  tv4: {
    license: [
      { type: 'Public Domain', url: 'http://geraintluff.github.io/tv4/LICENSE.txt' },
      { type: 'MIT', url: 'http://jsonary.com/LICENSE.txt' },
    ],
    dev: true,
    why: 'in the public domain, or MIT',
  },
};

const { packages } = lock.parse(readJson('package-lock.json'));
/** Every package at every place it is installed at; not this project. */
const all = Object.entries(packages)
  .filter(([path]) => path !== '')
  .map(([path, entry]) => ({ ...entry, path, name: path.slice(path.lastIndexOf('node_modules/') + 13) }));

/** An SPDX expression of names, AND, OR and brackets; whatever else it is, is not allowed. */
function isAllowed(license: unknown): boolean {
  if (typeof license !== 'string') return false;
  const inner = license.replace(/\(([^()]*)\)/g, (_, part: string) => (isAllowed(part) ? 'MIT' : 'none'));
  if (inner !== license) return isAllowed(inner);
  return license
    .split(' OR ')
    .some((either) => either.split(' AND ').every((name) => ALLOWED.has(name.trim())));
}

describe('the packages of this project', () => {
  it('run no install scripts but the allowed ones', () => {
    const { allowScripts } = z
      .object({ allowScripts: z.record(z.string(), z.boolean()) })
      .parse(readJson('package.json'));
    const wanting = all.filter(({ hasInstallScript }) => hasInstallScript).map(({ name }) => name);
    assert.deepEqual([...new Set(wanting)].sort(), Object.keys(INSTALL_SCRIPTS).sort());
    for (const [name, { runs }] of Object.entries(INSTALL_SCRIPTS))
      assert.equal(allowScripts[name], runs, name);
    const runs = Object.keys(allowScripts).filter((name) => allowScripts[name]);
    assert.deepEqual(runs, ['node']);
  });

  it('come from the registry, each with its checksum', () => {
    const odd = all.filter(
      ({ resolved, integrity = '' }) => resolved !== undefined || !integrity.startsWith('sha512-'),
    );
    assert.deepEqual(
      odd.map(({ path }) => path),
      [],
    );
  });

  it('have licences that are allowed', () => {
    assert.ok(all.length > 300, `only ${all.length} packages were looked at`);
    const odd = all.filter(({ name, license, dev }) => {
      const known = EXCEPTIONS[name];
      if (!known) return !isAllowed(license);
      assert.deepEqual({ license, dev }, { license: known.license, dev: known.dev }, name);
      return false;
    });
    assert.deepEqual(
      odd.map(({ path, license }) => [path, license]),
      [],
    );
    const names = new Set(all.map(({ name }) => name));
    assert.deepEqual(
      Object.keys(EXCEPTIONS).filter((name) => !names.has(name)),
      [],
    );
  });

  it('are judged by the whole license expression', () => {
    for (const good of ['MIT', '(MIT OR GPL-3.0)', 'MIT AND Apache-2.0', '(MIT AND (ISC OR AGPL-3.0))'])
      assert.ok(isAllowed(good), good);
    for (const bad of [
      'GPL-3.0',
      'MIT AND GPL-3.0',
      '(MIT AND (GPL-2.0 OR AGPL-3.0))',
      'SEE LICENSE IN x',
      '',
      undefined,
    ])
      assert.ok(!isAllowed(bad), String(bad));
  });

  it('are listed in docs/licences.md if they are direct', () => {
    const shown = readFileSync(new URL('../../docs/licences.md', import.meta.url), 'utf8');
    assert.equal(shown.replaceAll('\r\n', '\n'), licencesDocument(), 'npm run licences writes it anew');
  });
});
