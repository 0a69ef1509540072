import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { posix } from 'node:path';
import { describe, it } from 'node:test';
import packageJson from '../../package.json' with { type: 'json' };
import { settingsSchema } from '../../src/config/settings.ts';
import { ERROR_CODES } from '../../src/domain/errors.ts';
import {
  anchorsOf,
  blocksOf,
  codeIn,
  documents,
  fileUrl,
  linksOf,
  prose,
  read,
  rowsUnder,
} from './documents.ts';

const TWINS = [
  'README',
  'docs/api',
  'docs/deployment',
  'docs/exports',
  'docs/reliability',
  'docs/text-format',
  'docs/content-filter',
  'docs/security',
  'docs/metrics',
  'docs/tutorial',
  'docs/openai',
  'docs/operations',
  'docs/architecture',
].filter((name) => documents().includes(`${name}.zh-CN.md`));
const OTHERS = [
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'bench/README.md',
  'src/markdown/README.md',
];
const RECORDS = readdirSync(fileUrl('docs/adr/')).map((file) => `docs/adr/${file}`);

const SOURCES = ['src', 'migrations', 'scripts', 'bench', 'test'].flatMap((folder) =>
  readdirSync(fileUrl(`${folder}/`), { recursive: true, encoding: 'utf8' }).map((path) =>
    posix.join(folder, path.replaceAll('\\', '/')),
  ),
);

/** The levels of the headings in order, such as `# ## ## ###`. */
function outline(markdown: string): string {
  return [...prose(markdown).matchAll(/^#+(?= )/gm)].map((match) => match[0]).join(' ');
}

/** The fenced blocks. In a tree of folders the explanations are translated, so only the names count. */
function codeOf(file: string) {
  return blocksOf(read(file)).map(({ language, text }) => ({
    language,
    text: text.startsWith('src/\n') ? text.match(/^ {0,4}\S+(?: \S+)*/gm) : text,
  }));
}

/** The `#NAME=value` lines of .env.example. */
function exampleSettings(): string[][] {
  return [...read('.env.example').matchAll(/^#([A-Z][A-Z\d_]*)=(.*)$/gm)].map(([, name = '', value = '']) => [
    name,
    value,
  ]);
}

describe('the documents', () => {
  it('show code in the tutorial that the examples have', () => {
    const code = ['examples/stream.mjs', 'examples/chat/chat.js'].map(read).join('\n');
    const shown = blocksOf(read('docs/tutorial.md')).filter(({ language }) => language === 'js');
    assert.ok(shown.length > 5);
    const lines = shown.flatMap(({ text }) => text.split('\n').map((line) => line.trim()));
    assert.deepEqual(
      lines.filter((line) => !code.includes(line)),
      [],
    );
  });

  for (const name of TWINS) {
    it(`show the same code in both languages: ${name}`, () => {
      assert.deepEqual(codeOf(`${name}.zh-CN.md`), codeOf(`${name}.md`));
    });

    it(`have the same sections in both languages: ${name}`, () => {
      assert.equal(outline(read(`${name}.zh-CN.md`)), outline(read(`${name}.md`)));
    });

    it(`link to each other: ${name}`, () => {
      const base = name.replace('docs/', '');
      const linked = (file: string) => linksOf(read(file)).map(({ path }) => path);
      assert.ok(linked(`${name}.md`).includes(`${base}.zh-CN.md`));
      assert.ok(linked(`${name}.zh-CN.md`).includes(`${base}.md`));
    });
  }

  for (const file of [...documents(), ...RECORDS, ...OTHERS]) {
    it(`link to existing files and headings: ${file}`, () => {
      const dead = linksOf(read(file)).filter(({ path, fragment }) => {
        const target = path === '' ? file : posix.join(posix.dirname(file), path);
        if (!existsSync(fileUrl(target))) return true;
        return fragment !== '' && !anchorsOf(read(target)).includes(fragment);
      });
      assert.deepEqual(dead, []);
    });
  }

  for (const file of [
    'docs/architecture.md',
    'docs/architecture.zh-CN.md',
    ...RECORDS,
    ...OTHERS.filter((name) => name !== 'CHANGELOG.md'),
  ]) {
    it(`name existing source files: ${file}`, () => {
      const named = [...prose(read(file)).matchAll(/`([\w./-]+\.ts)`/g)].map(([, name = '']) => name);
      const missing = named.filter((name) => !SOURCES.some((path) => `/${path}`.endsWith(`/${name}`)));
      assert.deepEqual(missing, []);
    });
  }

  for (const file of ['docs/deployment.md', 'docs/deployment.zh-CN.md']) {
    it(`list the settings and defaults of .env.example, in its order: ${file}`, () => {
      const rows = rowsUnder(read(file), /Settings|配置项/).flatMap(([name, value]) => {
        const setting = codeIn(name);
        return setting && /^[A-Z\d_]+$/.test(setting)
          ? [[setting, codeIn(value) ?? (value === '—' ? '' : value)]]
          : [];
      });
      assert.deepEqual(rows, exampleSettings());
      assert.deepEqual(rows.map(([name]) => name).sort(), [...settingsSchema.keyof().options].sort());
    });
  }

  for (const file of ['docs/deployment.md', 'docs/deployment.zh-CN.md']) {
    it(`quote log messages that the code writes: ${file}`, () => {
      const quoted = rowsUnder(read(file), /Logs|日志/).flatMap(([cell = '']) =>
        [...cell.matchAll(/`([^`]+)`/g)].map(([, message = '']) => message),
      );
      assert.ok(quoted.length > 5);
      const code = readdirSync(fileUrl('src/'), { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.ts'))
        .map((name) => read(posix.join('src', name.replaceAll('\\', '/'))))
        .join('\n');
      assert.deepEqual(
        quoted.filter((message) => !code.includes(`'${message}'`)),
        [],
      );
    });
  }

  for (const file of ['docs/api.md', 'docs/api.zh-CN.md']) {
    it(`list every error code with its status and title: ${file}`, () => {
      const rows = rowsUnder(read(file), /Errors|错误/).flatMap(([code, status, title]) => {
        const name = codeIn(code);
        return name && /^\d{3}$/.test(status ?? '') ? [[name, Number(status), title]] : [];
      });
      assert.deepEqual(
        rows,
        Object.entries(ERROR_CODES).map(([code, [status, title]]) => [code, status, title]),
      );
    });
  }

  for (const file of ['docs/reliability.md', 'docs/reliability.zh-CN.md']) {
    it(`name existing tests: ${file}`, () => {
      const named = [...read(file).matchAll(/`(test\/[^`]+)`((?: “[^”]+”)+)/g)].flatMap(
        ([, path = '', names = '']) =>
          [...names.matchAll(/“([^”]+)”/g)].map(([, name = '']) => ({ path, name })),
      );
      assert.ok(named.length > 20);
      const missing = named.filter(
        ({ path, name }) => !existsSync(fileUrl(path)) || !read(path).includes(name),
      );
      assert.deepEqual(missing, []);
    });
  }

  for (const file of ['README.md', 'README.zh-CN.md']) {
    it(`list every npm script once, with CONTRIBUTING.md: ${file}`, () => {
      const rows = [file, 'CONTRIBUTING.md'].flatMap((name) => rowsUnder(read(name), /Scripts|脚本/));
      const scripts = rows.flatMap(([cell]) => {
        const command = codeIn(cell);
        return command === undefined ? [] : [command.replace(/^npm (?:run )?/, '')];
      });
      const commands = Object.keys(packageJson.scripts).filter((name) => name !== 'postinstall');
      assert.deepEqual(scripts.sort(), commands.sort());
    });
  }

  it('tell a newcomer what they need in 150 lines', () => {
    for (const file of ['README.md', 'README.zh-CN.md'])
      assert.ok(read(file).split('\n').length <= 151, file);
  });

  it('number the decisions without a gap', () => {
    const numbers = RECORDS.map((file) => Number(/(\d{4})-[\w-]+\.md$/.exec(file)?.[1])).sort(
      (a, b) => a - b,
    );
    assert.deepEqual(
      numbers,
      RECORDS.map((_, index) => index + 1),
    );
  });

  it('give every decision its three parts', () => {
    for (const file of RECORDS) {
      const headings = [...read(file).matchAll(/^## (\w+)$/gm)].map((match) => match[1]);
      assert.deepEqual(headings, ['Context', 'Decision', 'Consequences'], file);
    }
  });
});
