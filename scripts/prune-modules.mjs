/**
 * Removes from node_modules what a running server never reads: source maps, the sources of packages that ship compiled
 * code, and SQLite's C code. Does so only after `npm ci --omit=dev`, or with `--force`. Must run with any version of
 * Node. See docs/operations.md, "What is installed".
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const FOLDERS = ['better-sqlite3/deps', 'openai/src', 'zod/src'];
const MODULES = fileURLToPath(new URL('../node_modules', import.meta.url));

const omitted = (process.env.npm_config_omit ?? '').split(/[\s,]+/);
if (omitted.includes('dev') || process.argv.includes('--force')) prune();

function prune() {
  for (const folder of FOLDERS) rmSync(join(MODULES, folder), { recursive: true, force: true });
  if (!existsSync(MODULES)) return;
  for (const entry of readdirSync(MODULES, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && entry.name.endsWith('.map')) rmSync(join(entry.parentPath, entry.name));
  }
}
