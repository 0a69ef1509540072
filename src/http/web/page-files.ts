/** The scripts, styles and texts of the home page, as small as they get without a build. */
import { createHash } from 'node:crypto';
import { globSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import type { RequestHandler } from 'express';
import { ERRORS, STRINGS } from './strings.js';

const WEB = new URL('./', import.meta.url);

const SCRIPTS: ReadonlySet<string> = new Set(
  globSync('**/*.js', { cwd: new URL('assets/', WEB) }).map((path) => `/${path.replaceAll('\\', '/')}`),
);
/** In the order of the cascade. */
const STYLES = ['style', 'list', 'chat', 'text', 'panels'];
const TEXTS: Readonly<Record<string, 0 | 1>> = { '/texts/zh-CN.json': 0, '/texts/en.json': 1 };

interface PageFile {
  readonly body: string;
  readonly etag: string;
}

/** Serves them below the path where it is mounted. Their names have no version, so browsers must revalidate them. */
export function pageFiles(): RequestHandler {
  // Read once and together, so that they fit each other while the files are replaced.
  let files: Promise<ReadonlyMap<string, PageFile>> | undefined;
  return async (request, response, next) => {
    files ??= loadAll();
    files.catch(() => {
      files = undefined;
    });
    const file = (await files).get(request.path);
    if (file === undefined) return next();
    const { body, etag } = file;
    response.setHeader('Cache-Control', 'no-cache');
    response.setHeader('ETag', etag);
    response.type(extname(request.path)).send(body);
  };
}

/** By path. */
async function loadAll(): Promise<ReadonlyMap<string, PageFile>> {
  const paths = [...SCRIPTS, '/style.css', ...Object.keys(TEXTS)];
  const load = async (path: string): Promise<[string, PageFile]> => {
    const body = await bodyOf(path);
    return [path, { body, etag: `"${createHash('sha256').update(body).digest('base64url')}"` }];
  };
  return new Map(await Promise.all(paths.map(load)));
}

async function bodyOf(path: string): Promise<string> {
  if (SCRIPTS.has(path)) return withoutComments(await source(`assets${path}`));
  if (path === '/style.css') {
    const sources = await Promise.all(STYLES.map((name) => source(`styles/${name}.css`)));
    return withoutComments(sources.join('\n'));
  }
  return texts(TEXTS[path] ?? 0);
}

function source(path: string): Promise<string> {
  return readFile(new URL(path, WEB), 'utf8');
}

/** A browser needs one language only. */
function texts(language: 0 | 1): string {
  const all = Object.entries({ ...STRINGS, ...ERRORS });
  return JSON.stringify(Object.fromEntries(all.map(([key, sentences]) => [key, sentences[language]])));
}

/** Comments stand on lines of their own. They are a sixth of what a browser would load of the page. */
export function withoutComments(text: string): string {
  return text.replace(/^ *(?:\/\*[\s\S]*?\*\/|\/\/.*)\n/gm, '');
}
