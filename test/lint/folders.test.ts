import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { fileURLToPath } from 'node:url';

const SRC = fileURLToPath(new URL('../../src', import.meta.url));
const MAX_FILES = 12;

it(`no folder of src holds more than ${MAX_FILES} files beside its subfolders`, () => {
  const files = readdirSync(SRC, { recursive: true, withFileTypes: true }).filter(
    // layers.test.ts plants files beside ours.
    (entry) => entry.isFile() && !entry.name.startsWith('planted-'),
  );
  const byFolder = Map.groupBy(files, ({ parentPath }) => parentPath);
  assert(byFolder.has(join(SRC, 'db', 'core')), 'the folders were not read');
  const crowded = [...byFolder].filter(([, { length }]) => length > MAX_FILES);
  assert.deepEqual(
    crowded.map(([folder, { length }]) => `${folder}: ${length}`),
    [],
  );
});
